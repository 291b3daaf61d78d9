"""The published models: what they had, what to expect of a model like them, and which are nearest to one."""

from weibull_monitor.reference.attention import Attention as Attention
from weibull_monitor.reference.attention import attention_of as attention_of
from weibull_monitor.reference.classify import Classification as Classification
from weibull_monitor.reference.classify import classify as classify
from weibull_monitor.reference.classify import drift_severity as drift_severity
from weibull_monitor.reference.classify import initialisation_of as initialisation_of
from weibull_monitor.reference.classify import regime as regime
from weibull_monitor.reference.classify import training_state as training_state
from weibull_monitor.reference.expected import ExpectedRange as ExpectedRange
from weibull_monitor.reference.expected import expected_range as expected_range
from weibull_monitor.reference.nearest import KindDifference as KindDifference
from weibull_monitor.reference.nearest import Nearest as Nearest
from weibull_monitor.reference.nearest import Neighbour as Neighbour
from weibull_monitor.reference.nearest import nearest as nearest
from weibull_monitor.reference.published import PUBLISHED as PUBLISHED
from weibull_monitor.reference.published import AttentionKind as AttentionKind
from weibull_monitor.reference.published import PublishedModel as PublishedModel
from weibull_monitor.reference.published import published as published
from weibull_monitor.reference.reading import Reading as Reading
from weibull_monitor.reference.reading import reading as reading
from weibull_monitor.reference.reading import reading_at as reading_at
