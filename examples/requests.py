"""How long requests wait at a rate, and the greatest rate at which few wait too long."""

import optalloc as oa
from optalloc.cost.engine.setup import Engine
from optalloc.cost.engine.step import step_model
from optalloc.simulate.requests.arrivals import Bursts
from optalloc.simulate.requests.deployment import Deployment
from optalloc.simulate.requests.engines import engines_of
from optalloc.simulate.requests.lengths import Lognormal, Uniform
from optalloc.simulate.requests.load import Load


def main() -> None:
    """Two engines of four H100s each, prompts of about 1,000 tokens and answers of about 200."""
    model = oa.load_model("llama-3.1-70b")
    device = oa.load_cluster("8xh100-sxm").nodes[0].device
    engine = Engine(tp=4, weight_dtype="fp8")
    engines = engines_of(engine, step_model(model, device, engine), replicas=2)
    deployment = Deployment(engines=(engines,))
    load = Load(arrivals=Bursts(6.0), input=Uniform.around(1000, 0.5), output=Lognormal(200.0, 1.0))

    told = oa.simulate_requests(deployment, load, num_requests=5000, ttft_s=0.5).summary
    print(f"{told.num_requests} requests at {told.requests_per_s:.1f}/s")
    print(f"first token: P50 {told.ttft.p50_s:.3f} s, P99 {told.ttft.p99_s:.3f} s")
    print(f"further ones: P50 {told.tpot.p50_s * 1e3:.1f} ms, P99 {told.tpot.p99_s * 1e3:.1f} ms")
    print(f"{told.met_share:.1%} met the target, cache at most {told.kv_peak_share:.0%} full")

    most = oa.max_rate(deployment, load, percentile=90.0, ttft_s=0.5, tpot_s=0.05)
    print(f"90% meet 0.5 s and 50 ms up to {most.rate_per_s:.1f} requests/s; {most.binds} binds")


if __name__ == "__main__":
    main()
