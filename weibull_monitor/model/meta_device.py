"""Models without weights: built on the meta device from a configuration, in a second or so, whatever their size.

Configurations from files cannot be trusted: `weibull_monitor.checkpoint.child` builds those, in a process with limits.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from weibull_monitor.errors import ConfigurationError, MissingDependencyError, text_of

_PREFERRED: Final = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_MAPPING",
)
"""The auto classes of transformers, those of whole language models first."""


def model_types() -> tuple[str, ...]:
    """Every model type that the installed transformers knows, in alphabetical order."""
    return tuple(sorted(_transformers().CONFIG_MAPPING.keys()))


def build(model_type: str) -> nn.Module:
    """The default model of a type, such as ``llama``, on the meta device: it has every module and shape and no weight.

    Raises:
        ConfigurationError: If there is no such type, or no model can be built from its default configuration.
        MissingDependencyError: If transformers is not installed.
    """
    return build_from(configuration(model_type))


def configuration(model_type: str) -> Any:
    """The default configuration of a model type; the errors are those of `build`."""
    transformers = _transformers()
    if model_type not in transformers.CONFIG_MAPPING:
        raise ConfigurationError(
            f"{model_type!r} is neither a path nor a model type of transformers {transformers.__version__}; "
            "try 'llama', or a directory that holds a config.json"
        )
    try:
        return transformers.CONFIG_MAPPING[model_type]()
    except Exception as error:  # a configuration that has no defaults
        raise ConfigurationError(f"{model_type!r} has no default configuration: {error}") from error


def configuration_classes() -> Mapping[str, Any]:
    """The classes of configurations, by model type."""
    found: Mapping[str, Any] = _transformers().CONFIG_MAPPING
    return found


def configuration_from(values: Mapping[str, Any]) -> Any:
    """The configuration that transformers makes of settings, as if they were a ``config.json``.

    Args:
        values: The settings, which have to be trusted: `weibull_monitor.checkpoint.config.cleaned` makes them so.

    Raises:
        ConfigurationError: If it makes none of them.
    """
    transformers = _transformers()
    with tempfile.TemporaryDirectory(prefix="weibull-config-") as folder:
        Path(folder, "config.json").write_text(json.dumps(values), encoding="utf-8")
        try:
            return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever is wrong, it is the settings that are wrong
            why = " ".join(text_of(error).split("\n\n")[0].replace(folder, "").split()).rstrip(".")
            raise ConfigurationError(f"transformers cannot read it: {why}"[:300]) from error


def build_from(config: Any) -> nn.Module:
    """A model on the meta device from a configuration of transformers.

    Raises:
        ConfigurationError: If no model can be built from it.
    """
    transformers = _transformers()
    problems: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model_class in _classes(config, transformers):
            model = _attempt(model_class, config, problems)
            if model is not None:
                return model
    why = problems[0] if problems else "transformers has no model class for it"
    raise ConfigurationError(f"no model can be built from the configuration of {config.model_type!r}: {why}")


def _attempt(model_class: Any, config: Any, problems: list[str]) -> nn.Module | None:
    try:
        with torch.device("meta"):
            model: nn.Module = model_class._from_config(config, attn_implementation="eager")
        return model
    except MemoryError:
        raise
    except Exception as error:  # a constructor may fail in any way, and another class may still do
        first_line = next((line for line in text_of(error).splitlines() if line.strip()), "")
        problems.append(f"{model_class.__name__}: {type(error).__name__}: {first_line}"[:200])
        return None


def _classes(config: Any, transformers: Any) -> Iterator[Any]:
    """Model classes for a configuration: the one that it names, those of the auto classes, those of its own module."""
    seen = []
    for model_class in _candidates(config, transformers):
        if model_class is not None and model_class not in seen:
            seen.append(model_class)
            yield model_class


def _candidates(config: Any, transformers: Any) -> Iterator[Any]:
    named = getattr(config, "architectures", None)
    for name in named if isinstance(named, (list, tuple)) else ():
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if inspect.isclass(found) and issubclass(
            found, transformers.PreTrainedModel
        ):  # not a function or an auto class
            yield found
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    every = sorted(name for name in dir(auto) if name.startswith("MODEL_") and name.endswith("_MAPPING"))
    for name in (*_PREFERRED, *every):
        try:
            found = getattr(auto, name)[type(config)]
        except (KeyError, ValueError):  # not in this mapping, or named there but not there
            continue
        yield from found if isinstance(found, (tuple, list)) else (found,)
    try:
        module = importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))
    except ImportError:
        return
    for _, model_class in inspect.getmembers(module, inspect.isclass):
        abstract = "PreTrainedModel" in model_class.__name__  # also Qwen3OmniMoePreTrainedModelForConditionalGeneration
        if getattr(model_class, "config_class", None) is type(config) and not abstract:
            yield model_class


def _transformers() -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError("transformers", "transformers") from error
