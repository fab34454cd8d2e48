"""PolyV: one model that reads images, videos and 3D scenes, in the Hugging Face ecosystem.

Importing the package registers its classes with transformers' Auto classes, so that `AutoModel`,
`AutoModelForImageTextToText`, `AutoProcessor` and `pipeline("image-text-to-text")` load PolyV checkpoints.
"""

import importlib
import os
import sys
import sysconfig


__version__ = "0.1.0"

_EXPORTS = {
    "PolyVConfig": "polyv.configuration.configuration_polyv",
    "PolyVTextConfig": "polyv.configuration.configuration_polyv",
    "PolyVModel": "polyv.modeling_polyv.modeling_polyv",
    "PolyVForConditionalGeneration": "polyv.modeling_polyv.modeling_polyv",
    "PolyVProcessor": "polyv.processing.processing_polyv",
    "PosedViews": "polyv.processing.posed_views",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


def register() -> None:
    """Register PolyV with the Auto classes. Runs on `import polyv`; calling it again changes nothing."""
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageTextToText,
        AutoModelForMultimodalLM,
        AutoProcessor,
    )

    from polyv.configuration.configuration_polyv import PolyVConfig, PolyVTextConfig
    from polyv.modeling_polyv.modeling_polyv import PolyVForConditionalGeneration, PolyVModel, PolyVTextModel
    from polyv.processing.processing_polyv import PolyVProcessor

    for config in (PolyVConfig, PolyVTextConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(PolyVConfig, PolyVModel, exist_ok=True)
    AutoModel.register(PolyVTextConfig, PolyVTextModel, exist_ok=True)
    AutoModelForImageTextToText.register(PolyVConfig, PolyVForConditionalGeneration, exist_ok=True)
    AutoModelForMultimodalLM.register(PolyVConfig, PolyVForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(PolyVConfig, PolyVProcessor, exist_ok=True)


def _is_command() -> bool:
    """Whether this process runs the `polyv` command that pip put into this environment, and no other program of
    that name."""
    folder, name = os.path.split(os.path.realpath(sys.argv[0] if sys.argv else ""))
    if name.removesuffix(".exe") != "polyv":
        return False
    user = sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))
    scripts = (os.path.dirname(sys.executable), sysconfig.get_path("scripts"), user)
    return folder in map(os.path.realpath, scripts)


# The command answers `--help` in well under a second: `cli.main` registers once a subcommand needs a model, instead
# of paying for torch here.
if not _is_command():
    register()
