"""What the gate may go back to is never thinned out: in quiet hours it was pushed long ago."""

from __future__ import annotations

from pathlib import Path

from service.weight_keeping import MINUTE
from tests.trainer.learning_kit import Desk, make_base, shop_records


def test_the_gates_way_back_outlives_quiet_hours(tmp_path: Path) -> None:
    artifact = make_base(tmp_path / "base")
    desk = Desk(tmp_path / "data", artifact, {"checkpoint_every_ms": 20_000})
    try:
        trainer = desk.trainer()
        for t, stream, records in shop_records(artifact, 60, a_second=1):
            if t > desk.clock.now:
                desk.run(trainer, t - desk.clock.now, 500)
            desk.log.append(stream, records)
        desk.run(trainer, 40 * MINUTE, 15_000)  # nobody comes
        remembered = [one.v for one in trainer.core.learning.gate.state.snapshots]
        stored = [version.v for version in desk.store.versions(10_000)]
        assert len(remembered) >= 4
        assert set(remembered) <= set(stored)
        assert len(stored) < trainer.core.v / 2, "the others were thinned out"
    finally:
        desk.close()
