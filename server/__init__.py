"""Run the model, steered: engine, REST API and command line."""
