"""
Whether the daemon is after a long time what it was at first: `python -m tests.benchmarks.soak [MINUTES]`.

All that a day brings, as fast as it will go: streams and whole answers through every kind of backend, counts, lists of
models, conversations that grow, backends that fail, clients that leave, and a reload with other settings every few
seconds. Each minute one line: the memory, the open files, what was asked and what was answered otherwise than expected.
At the end the verdict: memory without a slope once it was warm, and as many open files as before.
"""

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field

from tests.e2e.daemon import running, wait_until
from tests.e2e.faulty import TEXT, FaultyBackend
from tests.e2e.scene import AFTERMATH, KINDS, Client, Scene, idle_files, settings_of

#: So many clients ask at the same time.
CLIENTS = 6
#: Seconds between two reloads, and between two looks at the memory.
RELOAD = 15.0
LOOK = 5.0
#: Which part of the time is for becoming warm.
WARMING = 0.4
#: MiB that the memory may grow in all the rest of the time: noise of the allocator.
FLAT = 4.0
#: Faults, and how each ends, streamed or not.
FAILING: Mapping[str, tuple[str, ...]] = {
    "status_500": ("500 api_error",),
    "status_429": ("429 rate_limit_error",),
    "reset_before_headers": ("529 overloaded_error",),
    "reset_between_events": ("event api_error", "502 api_error"),
    "closed_in_mid_stream": ("event api_error", "502 api_error"),
    "ended_in_mid_stream": ("event api_error", "502 api_error"),
    "no_http": ("529 overloaded_error",),
    "no_events": ("502 api_error",),
}
WORDS = "the proxy keeps every promise that a server breaks and no client ever hears of it ".split()


@define
class Soak:
    """What is going on."""

    scene: Scene
    until: float
    asked: Counter[str] = field(factory=Counter)
    failed: list[str] = field(factory=list)

    def client(self, number: int) -> None:
        """One client after the other, until the time is up."""
        chance = Random(number)
        deeds = [self.good] * 10 + [self.conversation] * 3 + [self.count] * 3 + [self.models, self.unknown]
        deeds += [self.failing] * 3 + [self.leaves] * 3
        while time.monotonic() < self.until:
            deed = chance.choice(deeds)
            self.asked[deed.__name__] += 1
            try:
                deed(chance)
            except (AssertionError, OSError, ValueError) as fault:
                self.failed.append(f"{deed.__name__}: {fault!r}"[:500])

    def good(self, chance: Random) -> None:
        kind, model = chance.choice(list(KINDS)), chance.choice(("good", "good", "brisk"))
        seen = self.scene.asks(f"{kind}/{model}", chance.random() < 0.7, self.prose(chance))
        assert (seen.what, seen.text) == ("answered", TEXT), seen

    def conversation(self, chance: Random) -> None:
        """Some turns of a session of Claude Code's."""
        session = f"x-claude-code-session-id: {chance.getrandbits(128):032x}"
        messages: list[dict[str, Any]] = []
        for _ in range(3):
            messages.append({"role": "user", "content": self.prose(chance)})
            body = {"model": "openai/good", "max_tokens": 50, "stream": True, "messages": messages}
            request = self.scene.framed(json.dumps(body).encode(), "/v1/messages", session)
            seen = Client(self.scene.connect(), "", request).send().seen()
            assert seen.text == TEXT, seen
            messages.append({"role": "assistant", "content": seen.text})

    def count(self, chance: Random) -> None:
        model = f"{chance.choice(list(KINDS))}/good"
        body = {"model": model, "messages": [{"role": "user", "content": self.prose(chance)}]}
        counted = self.scene.daemon.json("POST", "/v1/messages/count_tokens", body)
        assert counted["input_tokens"] > 0, counted

    def models(self, chance: Random) -> None:
        assert self.scene.daemon.json("GET", "/v1/models")["data"]

    def unknown(self, chance: Random) -> None:
        answer = self.scene.daemon.asked("GET", f"/{chance.getrandbits(32):x}")
        assert (answer.status, bool(answer.read())) == (404, True)

    def failing(self, chance: Random) -> None:
        kind = chance.choice([kind for kind in KINDS if kind != "passed"])
        place = chance.choice(("", "", "", "", "-refused", "-stranger"))
        model, allowed = chance.choice(list(FAILING.items()))
        seen = self.scene.asks(f"{kind}{place}/{model}", chance.random() < 0.7, self.prose(chance))
        assert seen.what in (("529 overloaded_error",) if place else allowed), seen

    def leaves(self, chance: Random) -> None:
        """In mid-stream, or while it waits."""
        kind, waits = chance.choice(list(KINDS)), chance.random() < 0.3
        client = self.scene.client(f"{kind}/{'mute' if waits else 'drip'}", True, self.prose(chance))
        client.send()
        if waits:
            wait_until("the backend is asked", AFTERMATH, lambda: client.tag in self.scene.backend.asked)
        else:
            client.until(b"two")
        client.vanish(chance.random() < 0.5)
        wait_until("the backend is let go", AFTERMATH, lambda: self.scene.is_left(client.tag))

    @staticmethod
    def prose(chance: Random) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randrange(1, 400)))


def slope(looks: list[tuple[float, float]]) -> float:
    """Of the straight line that fits best: MiB in a second."""
    mean_time = sum(when for when, _ in looks) / len(looks)
    mean = sum(size for _, size in looks) / len(looks)
    spread = sum((when - mean_time) ** 2 for when, _ in looks)
    return sum((when - mean_time) * (size - mean) for when, size in looks) / spread


def soaked(scene: Scene, minutes: float, reload: Callable[[int], None]) -> bool:
    """Whether it stood the test; says how."""
    began = time.monotonic()
    soak = Soak(scene, began + minutes * 60)
    threads = [threading.Thread(target=soak.client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    looks: list[tuple[float, float]] = []
    reloads = told = 0
    print("minute  MiB    files  requests  failures  reloads", flush=True)
    while (now := time.monotonic()) < soak.until:
        time.sleep(min(LOOK, max(0.0, soak.until - now)))
        now = time.monotonic() - began
        looks.append((now, scene.memory() / 2**20))
        if now >= (reloads + 1) * RELOAD:
            reloads += 1
            reload(reloads)
        if now >= (told + 1) * 60:
            told += 1
            row = f"{told:6}  {looks[-1][1]:5.1f}  {scene.files():5}  {soak.asked.total():8}"
            print(f"{row}  {len(soak.failed):8}  {reloads:7}", flush=True)
    for thread in threads:
        thread.join()
    scene.settle()
    scene.lives()
    scene.settle()
    warm = [look for look in looks if look[0] >= WARMING * minutes * 60]
    steep = slope(warm)
    grown = steep * (warm[-1][0] - warm[0][0])
    flat = grown < FLAT
    print(", ".join(f"{name} {count}" for name, count in sorted(soak.asked.items())))
    took = (warm[-1][0] - warm[0][0]) / 60
    print(f"memory once warm: {grown:+.2f} MiB in {took:.1f} min, {steep * 3600:+.1f} MiB an hour")
    print(f"open files: {scene.open_files} before, {scene.files()} after")
    scene.quiet(0)
    for fault in soak.failed[:20]:
        print(fault)
    print("flat" if flat else "NOT flat", "and nothing failed" if not soak.failed else f"but {len(soak.failed)} failed")
    return flat and not soak.failed


def main(arguments: list[str]) -> int:
    minutes = float(arguments[0]) if arguments else 60.0
    backend = FaultyBackend(keeps=True)
    with TemporaryDirectory() as name, backend.open(Path(name)):
        folder = Path(name)
        file = folder / "claudeproxy.toml"
        file.write_text(settings_of(backend))
        with running(folder, [f"--config={file}"]) as daemon:
            scene = Scene(daemon, backend)
            scene.lives()
            time.sleep(6)  # until no connection is kept for the next request
            scene.open_files = idle_files(scene)

            def reload(number: int) -> None:
                extra = (
                    f'[backends.extra{number}]\n{KINDS["openai"]}\nbase_url = "http://127.0.0.1:{backend.port}/v1"\n'
                )
                file.write_text(settings_of(backend) + "\n" + extra * (number % 2))
                daemon.signal(signal.SIGHUP)

            held = soaked(scene, minutes, reload)
            daemon.signal(signal.SIGTERM)
            assert daemon.ended() == 143, daemon.log[-2000:]
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
