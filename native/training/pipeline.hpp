// Event time and peak memory of a pipeline schedule.
#pragma once
namespace optalloc::training {
int pipeline_abi();
}
