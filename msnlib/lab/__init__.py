"""The lab around the core: what experiment notebooks share, their records, and what is published from them."""

import lazy_loader

# What notebooks import; the modules have more.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "claim": ["claim_table", "claim_verdicts"],
        "design": ["read_design"],
        "experiments": [
            *("CONTROLS", "allocation_table", "choose_device", "comparison", "controls", "dedicated", "idle_units"),
            *("narrow", "record"),
        ],
        "figures": ["forest", "results"],
        "plots": ["LINES", "bars", "learning_curves", "matrix", "owners", "samples", "style", "values"],
        "pooling": ["headline", "over_seeds"],
        "power": ["power_table"],
        "published": ["other_outputs", "published_table", "published_value"],
        "records": ["Run", "read_records"],
        "report": ["paired", "report_table"],
        "statistics": ["over_examples"],
    },
)
