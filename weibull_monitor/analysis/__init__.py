"""The published models, and runs, samples or several runs compared with them."""

from weibull_monitor.analysis.attention import Attention as Attention
from weibull_monitor.analysis.attention import attention_of as attention_of
from weibull_monitor.analysis.classify import Classification as Classification
from weibull_monitor.analysis.classify import classify as classify
from weibull_monitor.analysis.classify import drift_severity as drift_severity
from weibull_monitor.analysis.classify import initialisation_of as initialisation_of
from weibull_monitor.analysis.classify import regime as regime
from weibull_monitor.analysis.classify import training_state as training_state
from weibull_monitor.analysis.expected import ExpectedRange as ExpectedRange
from weibull_monitor.analysis.expected import expected_range as expected_range
from weibull_monitor.analysis.nearest import KindDifference as KindDifference
from weibull_monitor.analysis.nearest import Nearest as Nearest
from weibull_monitor.analysis.nearest import Neighbour as Neighbour
from weibull_monitor.analysis.nearest import nearest as nearest
from weibull_monitor.analysis.published import PUBLISHED as PUBLISHED
from weibull_monitor.analysis.published import AttentionKind as AttentionKind
from weibull_monitor.analysis.published import PublishedModel as PublishedModel
from weibull_monitor.analysis.published import published as published
from weibull_monitor.analysis.sample import ComparedSample as ComparedSample
from weibull_monitor.analysis.sample import compared_sample as compared_sample
