"""Where alerts go besides the history and the trackers: the log and a webhook."""

from weibull_monitor.alerts.delivery.log import log as log
from weibull_monitor.alerts.delivery.webhook import Webhook as Webhook
