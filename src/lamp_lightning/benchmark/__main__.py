"""`python -m lamp_lightning.benchmark`: tune and measure a suite of methods, in one report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from lamp_lightning.runtime.command import run_command
from lamp_lightning.runtime.command_settings import Benchmark
from lamp_lightning.runtime.console import quiet
from lamp_lightning.runtime.schema import check_settings
from lamp_lightning.runtime.stopping import Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    quiet()
    return run_command(benchmark, "benchmark", list(sys.argv[1:] if argv is None else argv))


def benchmark(cfg: DictConfig) -> None:
    """Go through the suite, from where an earlier call stopped."""
    check_settings(Benchmark, cfg)
    from lamp_lightning.benchmark.suite import run_suite  # torch takes seconds: not before this is right

    try:
        run_suite(cfg)
    except Stopped:
        print("\nStopped. The same overrides go on where this was.", flush=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
