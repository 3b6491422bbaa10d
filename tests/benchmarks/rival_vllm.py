"""vLLM on the CPU, unsteered: the yardstick of how fast the same tokens come without any steering.

In one process, compiled, no prefix cache. Upstream vLLM cannot steer.
"""

from __future__ import annotations

import os
from pathlib import Path

from rival_work import Job, Work

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else its CPU time is not ours to see
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


class Subject:
    op, batch, shared = "none", "continuous", False
    dtype = "float32"

    def __init__(self, work: Work) -> None:
        os.environ.setdefault("VLLM_CACHE_ROOT", str(Path(work.kept) / "vllm"))
        import vllm

        self.vllm, self.work, self.version = vllm, work, vllm.__version__
        self.llm = vllm.LLM(
            work.model,
            dtype=self.dtype,
            max_model_len=1024,
            max_num_seqs=32,
            enable_prefix_caching=False,
            seed=0,
        )

    def run(self, job: Job) -> list[list[int]]:
        sampling = self.vllm.SamplingParams(
            temperature=0.0, max_tokens=job.tokens, ignore_eos=True, detokenize=False
        )
        prompts = [{"prompt_token_ids": self.work.prompts[row]} for row in job.rows]
        made = self.llm.generate(prompts, sampling, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in made]


class Half(Subject):
    """In bfloat16, as vLLM runs a model that was published so unless told otherwise."""

    dtype = "bfloat16"
