"""What happens around training steps: progress, numbers, samples, saving and stopping."""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lamp_lightning.runtime.errors import UserError
from lamp_lightning.runtime.runs import RunFolder
from lamp_lightning.runtime.stopping import StopRequest
from lamp_lightning.train.checkpoints import CheckpointFile

EVERY = 5.0  # seconds between two lines on what is generated, without a terminal
HOPELESS = 10  # steps in a row whose loss is no number


class AfterStep(Callback, ABC):
    """Calls `after_step` after each optimiser step, not for batches whose gradients are still accumulated."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.after_step(trainer, float(outputs["loss"]) * trainer.accumulate_grad_batches)

    @abstractmethod
    def after_step(self, trainer: Trainer, loss: float) -> None:
        """Optimiser step `trainer.global_step` is done; `loss` is that of its last batch."""


class TrainingProgress(AfterStep):
    """A Rich progress bar with loss, step time and time left; without a terminal, a line now and then."""

    def __init__(self, title: str, lines: int = 10) -> None:
        self.title = title
        self.lines = lines
        self.loss: float | None = None
        self.seconds = 0.0  # of training, those before a resume included
        self._said = -EVERY
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"))
        left = TimeRemainingColumn(elapsed_when_finished=True)
        self.bar = Progress(TextColumn("{task.description}"), *columns, left, TextColumn("left"))
        self.task = self.bar.add_task(title, numbers="")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step, self._begin = trainer.global_step, time.monotonic()
        self._before = self.seconds
        self.bar.reset(self.task, total=trainer.max_steps, completed=trainer.global_step)
        if trainer.is_global_zero and self.bar.console.is_terminal:
            self.bar.start()

    def after_step(self, trainer: Trainer, loss: float) -> None:
        step, seconds = trainer.global_step, time.monotonic() - self._begin
        self.seconds = self._before + seconds
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        seconds /= max(1, step - self._first_step)
        numbers = f"loss {self.loss:.4f}  {seconds:.2f} s/step"
        self.bar.update(self.task, completed=step, numbers=numbers)
        now_and_then = step % max(1, trainer.max_steps // self.lines) == 0
        if now_and_then and trainer.is_global_zero and not self.bar.live.is_started:
            left = time.strftime("%H:%M:%S", time.gmtime(seconds * (trainer.max_steps - step)))
            print(f"{self.title}: step {step}/{trainer.max_steps}  {numbers}  {left} left", flush=True)

    def say(self, what: str | None) -> None:
        """Show what is going on instead of the title; None shows the title again.

        Without a bar it prints a line, the next one when `EVERY` seconds have passed.
        """
        self.bar.update(self.task, description=what or self.title)
        if what is None:
            self._said = -EVERY
        elif not self.bar.live.is_started and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            print(f"{self.title}: {what}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss, "seconds": self.seconds}  # a resumed run reports what a whole one would

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss, self.seconds = state_dict["loss"], state_dict["seconds"]

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar.live.is_started:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)  # leaves the terminal as it was


class StepNumbers(Callback):
    """Logs the learning rate, the seconds and the memory of a step."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._begin = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        numbers = {
            "train/learning_rate": self._rate,
            "train/step_seconds": time.monotonic() - self._begin,
            "memory/process_gib": process_gib(),
        }
        if pl_module.device.type == "cuda":
            numbers["memory/gpu_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(numbers, rank_zero_only=True)


class HeldOutLosses(Callback):
    """Remembers the loss on held-out clips of each step at which it was measured, also across a resume."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and (loss := trainer.callback_metrics.get("val/loss")) is not None:
            self.losses[trainer.global_step] = float(loss)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": dict(self.losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses = dict(state_dict["losses"])


class Samples(AfterStep):
    """Calls `make(step)` every `every` steps, but not after the last: the final videos come then."""

    def __init__(self, make: Callable[[int], None], every: int | None) -> None:
        self.make = make
        self.every = every

    def after_step(self, trainer: Trainer, loss: float) -> None:
        step = trainer.global_step
        if self.every is None or step % self.every or step >= trainer.max_steps:
            return
        if trainer.is_global_zero:
            self.make(step)
        trainer.strategy.barrier("samples")


class SaveState(AfterStep):
    """Saves `last.ckpt` every `every` steps, after the last and when a stop is asked for, which it obeys.

    The file is replaced in one move, so whenever a run is killed there is a whole checkpoint of one step.
    """

    def __init__(self, run: RunFolder, every: int, stop: StopRequest) -> None:
        self.run = run
        self.every = every
        self.stop = stop
        self._saved: int | None = None
        self._waiting = False  # for a measurement of held-out clips, to save what came of it
        self.measured_at: int | None = None  # the step of the last one
        self._no_number = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = CheckpointFile()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.install()  # Lightning has taken SIGTERM by now, and would leave without saving
        self._saved = trainer.global_step
        trainer.should_stop = (
            any(  # a run that had ended early, and was stopped before its results were there
                each.wait_count >= each.patience for each in trainer.early_stopping_callbacks
            )
        )

    def after_step(self, trainer: Trainer, loss: float) -> None:
        # A loss scaler leaves out steps that would spoil the weights: they stay finite, and learn nothing.
        self._no_number = 0 if math.isfinite(loss) else self._no_number + 1
        if self._no_number >= HOPELESS:
            raise self.diverged(trainer, f"the loss of the last {HOPELESS} steps is not a finite number")
        step = trainer.global_step
        stop = trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)
        # Held-out clips are measured before saving, so that what callbacks make of it is saved, too.
        batch = trainer.fit_loop.total_batch_idx + 1
        measures = trainer.enable_validation and batch % (trainer.val_check_batch or math.inf) == 0
        if stop:
            trainer.should_stop = True
            if not measures:  # Lightning would now
                trainer.limit_val_batches = 0
        if trainer.should_stop or self._waiting or step % self.every == 0 or step >= trainer.max_steps:
            self._waiting = measures
            if not measures:
                self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self.measured_at = trainer.global_step
        if trainer.state.fn == "fit" and (self._waiting or trainer.should_stop):
            self._waiting = False
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint of this step, unless it is there."""
        if self._saved == trainer.global_step:
            return
        tuned = [p for p in trainer.lightning_module.parameters() if p.requires_grad]
        if not all(bool(torch.isfinite(p).all()) for p in tuned):
            raise self.diverged(trainer, "weights are not finite")
        trainer.save_checkpoint(self.run.checkpoint)  # every process must call it, and only the first writes
        self._saved = trainer.global_step

    def diverged(self, trainer: Trainer, what: str) -> UserError:
        """What to tell the user where going on makes no sense."""
        kept = f"The checkpoint of step {self._saved} is kept" if self._saved else "Nothing was saved"
        advice = "a lower tuner.learning_rate"
        if trainer.precision != "32-true":
            advice += ", or trainer.precision=32-true and model.dtype=float32"
        return UserError(
            f"The training has diverged by step {trainer.global_step}: {what}. {kept}; begin a new run with "
            f"{advice}."
        )


def process_gib() -> float:
    """The most memory that this process has held so far, in GiB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
