"""Config (environment) and Recipe (experiment), read, merged and validated once, here, without torch."""

from wmtp.config.aliases import concerns_scorer
from wmtp.config.base import Section
from wmtp.config.data import DataConfig, FieldsConfig, ModelConfig, PythonSourceConfig, TinycodeConfig
from wmtp.config.environment import Config, DevicesConfig, MeshConfig, MLflowConfig, PathsConfig
from wmtp.config.files import changed_keys, load, override, recipe_from, to_dict, to_yaml, validate
from wmtp.config.recipe import (
    CONTROLS,
    PROTOCOL_KEYS,
    CompareConfig,
    EvaluateConfig,
    Extraction,
    Recipe,
    TrainConfig,
)
from wmtp.config.weighting import (
    CriticConfig,
    LossConfig,
    Mode,
    Schedule,
    ScheduleConfig,
    ScorerConfig,
    WeightConfig,
)

__all__ = [
    "CONTROLS",
    "PROTOCOL_KEYS",
    "CompareConfig",
    "Config",
    "CriticConfig",
    "DataConfig",
    "DevicesConfig",
    "EvaluateConfig",
    "Extraction",
    "FieldsConfig",
    "LossConfig",
    "MLflowConfig",
    "MeshConfig",
    "Mode",
    "ModelConfig",
    "PathsConfig",
    "PythonSourceConfig",
    "Recipe",
    "Schedule",
    "ScheduleConfig",
    "ScorerConfig",
    "Section",
    "TinycodeConfig",
    "TrainConfig",
    "WeightConfig",
    "changed_keys",
    "concerns_scorer",
    "load",
    "override",
    "recipe_from",
    "to_dict",
    "to_yaml",
    "validate",
]
