"""Models without weights: built on the meta device from a configuration, in a second or so, whatever their size."""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from weibull_monitor.errors import ConfigurationError, MissingDependencyError

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


def build(source: str) -> nn.Module:
    """A model on the meta device: it has every module and shape and no weight.

    Args:
        source: A model type of transformers (``llama``: its default configuration), a ``config.json``, or a directory that holds
            one, such as a checkpoint. Nothing is downloaded and no code of a checkpoint is run.

    Raises:
        ConfigurationError: If there is no such configuration, or no model can be built from it.
        MissingDependencyError: If transformers is not installed.
    """
    return build_from(configuration(source))


def configuration(source: str) -> Any:
    """The configuration that `build` makes a model of, with the same argument and errors."""
    return _configuration(source, _transformers())


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
            model: nn.Module = model_class._from_config(config)
        return model
    except Exception as error:  # a constructor may fail in any way, and another class may still do
        first_line = next((line for line in str(error).splitlines() if line.strip()), "")
        problems.append(f"{model_class.__name__}: {type(error).__name__}: {first_line}"[:200])
        return None


def _configuration(source: str, transformers: Any) -> Any:
    path = Path(source)
    if path.exists():
        folder = path if path.is_dir() else path.parent
        if path.is_dir() and not (folder / "config.json").is_file():
            raise ConfigurationError(f"{source} holds no config.json; name the directory that does")
        try:
            return transformers.AutoConfig.from_pretrained(
                str(folder if path.is_dir() else path), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever is wrong with the file, it is the file that is wrong
            why = " ".join(str(error).split("\n\n")[0].split()).rstrip(".")  # some explain themselves at length
            raise ConfigurationError(f"{source} cannot be read as a configuration: {why}; name another") from error
    if source in transformers.CONFIG_MAPPING:
        try:
            return transformers.CONFIG_MAPPING[source]()
        except Exception as error:  # a configuration that has no defaults
            raise ConfigurationError(f"{source!r} has no default configuration: {error}") from error
    raise ConfigurationError(
        f"{source!r} is neither a path nor a model type of transformers {transformers.__version__}; "
        "try 'llama', or a directory that holds a config.json"
    )


def _classes(config: Any, transformers: Any) -> Iterator[Any]:
    """Model classes for a configuration: the one that it names, those of the auto classes, those of its own module."""
    seen = []
    for model_class in _candidates(config, transformers):
        if model_class is not None and model_class not in seen:
            seen.append(model_class)
            yield model_class


def _candidates(config: Any, transformers: Any) -> Iterator[Any]:
    for name in getattr(config, "architectures", None) or ():
        yield getattr(transformers, name, None)
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
        if getattr(model_class, "config_class", None) is type(config) and not model_class.__name__.endswith(
            "PreTrainedModel"
        ):
            yield model_class


def _transformers() -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingDependencyError("transformers", "transformers") from error
