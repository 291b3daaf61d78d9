"""Adapters to training frameworks: thin, over one `WeibullMonitor`. Import the one you use."""
