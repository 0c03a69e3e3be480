"""Faults, each planted in a copy of the repository: each must turn something red. `make mutants`.

    python -m deploy.servers -- python -m tests.mutants [NAME...]

For each fault the tests are run that ought to see it, on real servers where they need them. One that nothing sees is
a hole in the tests: exit status 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (".git", ".venv", ".cache", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__")
FOLDERS = ("schemas", "lane", "responder", "producer")  # that hold the packages
TIMEOUT_S = 240


@dataclass(frozen=True)
class Fault:
    """One change, and who should see it.

    Args:
        name: in a word or three.
        file: where it is planted.
        old, new: what is replaced by what; `old` occurs there once.
        tests: what is run, as arguments of pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = (
    Fault(
        "drop the ack",
        "responder/prediction_responder/amqp/pipeline.py",
        "        self._inbox.settle(done, Settlement.ACK)\n\n    @staticmethod",
        "\n    @staticmethod",
        "tests/integration/test_stopping.py -k sigterm_with_two_hundred",
    ),
    Fault(
        "ack before confirm",
        "responder/prediction_responder/amqp/pipeline.py",
        "            self._outbox.send(addressed)\n",
        "            self._outbox.send(addressed)\n            self._settle([one.token for one in addressed])\n",
        "tests/faults/test_crashes.py tests/integration/test_hostile.py -k 'written or memory_alarm'",
    ),
    Fault(
        "requeue what is unroutable",
        "responder/prediction_responder/amqp/pipeline.py",
        "        self._settle([message.token for message in messages])\n",
        "        if fate is Fate.RETURNED:\n"
        "            self._inbox.settle([one.token for one in messages], Settlement.REQUEUE)\n"
        "        else:\n"
        "            self._settle([message.token for message in messages])\n",
        "tests/integration/test_answers.py tests/integration/test_refusals.py",
    ),
    Fault(
        "at fault without others confirmed",
        "lane/amqp_lane/quarantine.py",
        "        if self._confirms > confirms >= 0 or not times:\n",
        "        if True:\n",
        "tests/unit/test_quarantine.py",
    ),
    Fault(
        "answer anybody",
        "responder/prediction_responder/amqp/requests.py",
        "not (given.user_id and self.users.fullmatch(given.user_id))",
        "given.user_id is None",
        "tests/integration/test_rights.py -k who_asks",
    ),
    Fault(
        "drop the renewal",
        "responder/prediction_responder/flight/keeper.py",
        "                    await self._renew()\n",
        "                    pass\n",
        "tests/unit/test_lease_machine.py -k Undisturbed",
    ),
    Fault(
        "skip the digest check",
        "responder/prediction_responder/cache/value.py",
        "    if stored_for != digest or crc32(",
        "    if crc32(",
        "tests/unit/test_entry.py tests/unit/test_freshness.py",
    ),
    Fault(
        "cancel the work of others",
        "responder/prediction_responder/flight/flight.py",
        "        if not flight.waiters and not flight.started:\n",
        "        if not flight.started:\n            flight.waiters.clear()\n",
        "tests/unit/test_flight.py tests/unit/test_service.py",
    ),
    Fault(
        "commit without the fence",
        "responder/prediction_responder/cache/redis_scripts.py",
        "if (redis.call('GET', KEYS[4]) or '') ~= ARGV[8] then return 0 end\nlocal kept",
        "local kept",
        "tests/contract/test_leases.py -k redis",
    ),
    Fault(
        "acknowledge over a gap",
        "lane/amqp_lane/window.py",
        "            frames.append((tag, False))\n",
        "            frames.append((tag, True))\n",
        "tests/unit/test_window.py",
    ),
    Fault(
        "the tenant out of the key",
        "responder/prediction_responder/cache/keys.py",
        "            begun.update(_frame(tenant))\n",
        "",
        "tests/unit/test_keys.py tests/unit/test_service.py",
    ),
    Fault(
        "no second look at the cache",
        "responder/prediction_responder/flight/step.py",
        "    if search.is_later and is_fresh(entry, now_ms) and entry.head not in search.unwanted:\n",
        "    if False:\n",
        "tests/unit/test_service.py tests/unit/test_lease_machine.py -k 'late_look_up or Undisturbed'",
    ),
    Fault(
        "follow an older refresh",
        "responder/prediction_responder/flight/step.py",
        "    if isinstance(found.beside, LeaseMark) and not search.only_later:\n",
        "    if isinstance(found.beside, LeaseMark):\n",
        "tests/unit/test_step.py tests/unit/test_refreshes.py",
    ),
    Fault(
        "take an older call for a newer one",
        "responder/prediction_responder/flight/step.py",
        '    if not search.is_later and search.earlier in (b"", mark.token):\n',
        "    if not search.is_later and search.earlier == mark.token:\n",
        "tests/unit/test_refreshes.py -k no_cache",
    ),
    Fault(
        "give what was refused",
        "responder/prediction_responder/flight/step.py",
        "is_fresh(entry, now_ms) and entry.head not in search.unwanted:",
        "is_fresh(entry, now_ms):",
        "tests/unit/test_refreshes.py tests/unit/test_freshness.py",
    ),
    Fault(
        "forget a cool-down with its mark",
        "responder/prediction_responder/flight/step.py",
        "    if 0 < found.cools_until_ms - now_ms <= MAX_COOL_DOWN_MS:\n",
        "    if False:\n",
        "tests/unit/test_step.py tests/unit/test_freshness.py",
    ),
    Fault(
        "lead where another generation stands",
        "responder/prediction_responder/flight/step.py",
        "            return TakeOver()\n",
        "            return Lead()\n",
        "tests/unit/test_lease_machine.py tests/unit/test_refreshes.py",
    ),
    Fault(
        "look for a large answer beside its place",
        "responder/prediction_responder/flight/step.py",
        '            search = search._replace(slot=Slot.VALUE, seen=b"")\n    # Without',
        "            pass\n    # Without",
        "tests/unit/test_step.py tests/unit/test_refreshes.py",
    ),
    Fault(
        "join whatever the order of replies",
        "responder/prediction_responder/flight/work.py",
        "            return is_same and (self.asked == 0 or self.asked > look_up)\n",
        "            return is_same\n",
        "tests/contract/test_two_connections.py",
    ),
    Fault(
        "serve what has expired",
        "responder/prediction_responder/service.py",
        "                if request.deadline <= request.received_at:\n",
        "                if False:\n",
        "tests/unit/test_service.py tests/faults/test_overload.py -k 'already_late or too_late'",
    ),
    Fault(
        "write to whoever is named",
        "responder/prediction_responder/amqp/requests.py",
        "        if reply_to.startswith(self.own) or (not user_id and USER in self.pattern):\n"
        "            return False\n",
        "        if reply_to:\n            return True\n",
        "tests/unit/test_wire.py tests/integration/test_refusals.py",
    ),
)


def planted(fault: Fault, folder: Path) -> None:
    """A copy of the repository with a fault."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    path = folder / fault.file
    text = path.read_text()
    if text.count(fault.old) != 1:
        msg = f"{fault.name}: {fault.file} does not hold exactly once what is to be replaced"
        raise SystemExit(msg)
    path.write_text(text.replace(fault.old, fault.new))


def is_seen(fault: Fault) -> tuple[bool, str]:
    """Whether the tests turn red, and what they said last."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "copy")
        planted(fault, folder)
        options = "-x -q -p no:cacheprovider --hypothesis-profile=first --servers=auto"
        command = f"{sys.executable} -m pytest {options} {fault.tests}"
        try:
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(str(folder / name) for name in ("", *FOLDERS))},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False, f"nothing red after {TIMEOUT_S} s"
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    return done.returncode == 1, last  # another status is no red test but a broken run


def main() -> int:
    """One line for each; 0 when all were seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these faults")
    chosen = [fault for fault in FAULTS if not (names := parser.parse_args().names) or fault.name in names]
    missed = 0
    for fault in chosen:
        began = time.monotonic()
        seen, last = is_seen(fault)
        missed += not seen
        print(
            f"{fault.name:28} {'seen' if seen else 'NOT SEEN':8} {time.monotonic() - began:5.0f} s  {last}", flush=True
        )
    print(f"{len(chosen) - missed} of {len(chosen)} planted faults were seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
