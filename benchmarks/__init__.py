"""Benchmarks: one file a question, one harness.

`python -m benchmarks` lists them. README.md says how to read their records.
"""

from benchmarks._declare import Benchmark as Benchmark
from benchmarks._declare import Method as Method
from benchmarks._declare import Rival as Rival
from benchmarks._declare import Task as Task
from benchmarks._declare import jax_environment as jax_environment
from benchmarks._declare import torch_environment as torch_environment
