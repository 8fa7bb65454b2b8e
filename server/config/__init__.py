"""The configuration: YAML, parsed once into frozen models that are passed down."""

from server.config.ensembles import EnsembleConfig
from server.config.limits import LimitsConfig
from server.config.loading import load_config, override_server
from server.config.machine import DeviceConfig
from server.config.members import (
    FakeConfig,
    ImageConfig,
    InputConfig,
    InputTensorConfig,
    MemberConfig,
    RecipeConfig,
    backend_for,
)
from server.config.observability import TracingConfig
from server.config.placement import PlacementConfig
from server.config.root import Config
from server.config.security import ApiKeyConfig, TlsConfig
from server.config.serving import ServerConfig

__all__ = [
    "ApiKeyConfig",
    "Config",
    "DeviceConfig",
    "EnsembleConfig",
    "FakeConfig",
    "ImageConfig",
    "InputConfig",
    "InputTensorConfig",
    "LimitsConfig",
    "MemberConfig",
    "PlacementConfig",
    "RecipeConfig",
    "ServerConfig",
    "TlsConfig",
    "TracingConfig",
    "backend_for",
    "load_config",
    "override_server",
]
