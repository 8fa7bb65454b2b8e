"""Step 1 from a configuration to running processes: YAML is parsed once into frozen models.

`loading` reads the file, and reports errors in lines for people; `root` is the whole of it, the
other modules are its sections. Next: `server.members`.
"""

from server.config.boxes import BoxesConfig
from server.config.devices import DeviceConfig, PlacementConfig
from server.config.ensembles import NO_RULE, EnsembleConfig
from server.config.expansion import default_names, expand
from server.config.fake import FakeConfig
from server.config.files import PinnedFileConfig
from server.config.inputs import ImageConfig, InputTensorConfig
from server.config.loading import load_config, override_server, read_config
from server.config.members import MemberConfig
from server.config.models import (
    LibraryConfig,
    MlflowConfig,
    PythonConfig,
    RecipeConfig,
    SklearnConfig,
    backend_for,
)
from server.config.outputs import OutputConfig
from server.config.repository import RepositoryConfig
from server.config.rollout import RolloutConfig
from server.config.root import Config
from server.config.server import (
    ApiKeyConfig,
    LimitsConfig,
    ServerConfig,
    TlsConfig,
    TracingConfig,
)
from server.config.variants import VariantConfig

__all__ = [
    "ApiKeyConfig",
    "BoxesConfig",
    "Config",
    "DeviceConfig",
    "EnsembleConfig",
    "FakeConfig",
    "ImageConfig",
    "InputTensorConfig",
    "LibraryConfig",
    "LimitsConfig",
    "MemberConfig",
    "MlflowConfig",
    "NO_RULE",
    "OutputConfig",
    "PinnedFileConfig",
    "PlacementConfig",
    "PythonConfig",
    "RecipeConfig",
    "RepositoryConfig",
    "RolloutConfig",
    "ServerConfig",
    "SklearnConfig",
    "TlsConfig",
    "TracingConfig",
    "VariantConfig",
    "backend_for",
    "default_names",
    "expand",
    "load_config",
    "override_server",
    "read_config",
]
