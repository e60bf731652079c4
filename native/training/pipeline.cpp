#include "training/pipeline.hpp"
namespace optalloc::training {
int pipeline_abi() { return 1; }
}
