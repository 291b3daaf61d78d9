"""What a matrix on disk is beyond its distribution: empty rows, few values, low rank, an identity. Seen while it is counted."""

from weibull_monitor.checkpoint.look.matrix import MatrixLook as MatrixLook
from weibull_monitor.checkpoint.look.matrix import Structure as Structure
from weibull_monitor.checkpoint.look.remarks import remarks_on as remarks_on
