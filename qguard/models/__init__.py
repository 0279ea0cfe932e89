"""fp32 models: where they lie, what they declare, and which of them qguard takes."""
