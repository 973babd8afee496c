"""Fleets of simulated gateways: real sessions with a controller, and nothing behind them."""
