"""What a backend says is passed on, but for its own key: some servers repeat the one that they refuse. Pure."""

from attrs import evolve, field

from claudeproxy.model.kinds import define, frozen
from claudeproxy.model.problems import Problem
from claudeproxy.routing.expectations import NO_SECRET, Secret, as_secret

#: A shorter one is no secret but a word for none, such as "none" or "EMPTY", and may stand in any text.
SHORTEST = 8


def _worth_it(key: str | Secret) -> Secret:
    secret = as_secret(key)
    return secret if len(secret.reveal()) >= SHORTEST else NO_SECRET


@frozen
class Hush:
    """Takes one key out of texts."""

    key: Secret = field(default=NO_SECRET, converter=_worth_it)

    def words(self, text: str) -> str:
        """For people: something else stands in its place."""
        return text.replace(self.key.reveal(), repr(self.key)) if self.key else text

    def problem(self, problem: Problem) -> Problem:
        """The same problem in such words."""
        message = self.words(problem.message)
        return problem if message == problem.message else evolve(problem, message=message)

    def body(self, data: bytes) -> bytes:
        """For a body whose length has been told: it stays the same."""
        key = self.key.reveal().encode()
        return data.replace(key, b"*" * len(key)) if key else data


#: For a backend that has no key.
NO_HUSH = Hush()


@define
class Muffler:
    """`Hush.body` for one that comes in pieces: what may be the beginning of the key waits for the next one."""

    _hush: Hush
    _held: bytes = field(default=b"", init=False, repr=False)

    def receive(self, data: bytes) -> bytes:
        """What can go on."""
        data = self._hush.body(self._held + data)
        key = self._hush.key.reveal().encode()
        size = next((size for size in range(len(key) - 1, 0, -1) if data.endswith(key[:size])), 0)
        self._held = data[len(data) - size :]
        return data[: len(data) - size]

    def close(self) -> bytes:
        """The rest."""
        held, self._held = self._held, b""
        return held
