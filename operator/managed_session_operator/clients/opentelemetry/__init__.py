"""Sends traces by OTLP. Nothing of OpenTelemetry's SDK is imported unless traces are on."""
