"""Where alerts go beside the history and the trackers: the log, a function of the user's, a webhook."""

from weibull_monitor.alerts.delivery.log import log as log
from weibull_monitor.alerts.delivery.webhook import Webhook as Webhook
