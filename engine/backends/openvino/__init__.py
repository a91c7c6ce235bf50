"""The network on a CPU, through OpenVINO."""
