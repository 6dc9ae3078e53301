"""What a step costs: traffic, memory and time, from a trace of the frameworks' real code at full size."""
