"""The run kinds: a new one is a line here, and a file of its own."""

from psplib.experiments.census import Census
from psplib.experiments.curvature import Curvature
from psplib.experiments.entropy_learning import EntropyLearning
from psplib.experiments.fine_tuning import FineTuning
from psplib.experiments.plane import Map
from psplib.experiments.profile import Profile
from psplib.experiments.selectivity import Selectivity
from psplib.experiments.sharpness import Sharpness
from psplib.experiments.transfer import Transfer
from psplib.pruning.lobster import Lobster
from psplib.pruning.magnitude import Magnitude
from psplib.pruning.retraining import Retraining
from psplib.pruning.sensitivity import Sensitivity
from psplib.pruning.thresholds import Thresholds

KINDS = (
    Lobster,
    Retraining,
    Census,
    Map,
    Curvature,
    Profile,
    Magnitude,
    Sensitivity,
    Sharpness,
    Transfer,
    EntropyLearning,
    FineTuning,
    Selectivity,
    Thresholds,
)
