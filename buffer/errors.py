"""Every error that a user may see. Each message states the bad value, the constraint and the fix.

TributaryError
├── ConfigError        a recipe, an option or the machine does not fit; raised before anything expensive starts
├── ModelError         a model folder, its tokenizer or a download is missing or damaged
├── StoreError         Redis can't be started, reached or entered
├── RecordError        a malformed record
├── RewardError        a task's reward broke its contract (NaN, shape, exception)
├── AdapterError       an adapter that fails verification, or an actor that serves the wrong one
└── WaitTimeout        a wait exceeded its timeout
"""


class TributaryError(Exception):
    """Base of all errors that Tributary raises on purpose."""


class ConfigError(TributaryError):
    """A recipe, an option or the machine does not fit."""


class ModelError(TributaryError):
    """A model folder, its tokenizer or a download is missing or damaged."""


class StoreError(TributaryError):
    """Redis can't be started, reached or entered."""


class RecordError(TributaryError):
    """A record is malformed."""


class RewardError(TributaryError):
    """A task's reward broke its contract."""


class AdapterError(TributaryError):
    """An adapter fails verification, or an actor serves the wrong one."""


class WaitTimeout(TributaryError):
    """A wait exceeded its timeout."""
