"""Every error a user can meet. Each message gives the value, the rule and the remedy.

TributaryError
├── ConfigError        a recipe, an option or the machine does not fit; found before anything heavy starts
├── ModelError         a model folder, its tokenizer or a download is missing or damaged
├── StoreError         Redis can't be started, reached or entered
├── RecordError        bytes that are no trajectory
├── RewardError        a task's reward broke its contract (NaN, shape, exception)
├── AdapterError       an adapter that is not what it says it is, or an actor that serves the wrong one
└── WaitTimeout        somebody waited longer than the limit says
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
    """Bytes that are no trajectory."""


class RewardError(TributaryError):
    """A task's reward broke its contract."""


class AdapterError(TributaryError):
    """An adapter that is not what it says it is, or an actor that serves the wrong one."""


class WaitTimeout(TributaryError):
    """Somebody waited longer than the limit says."""
