"""The lab around the core: what experiment notebooks share, their records, and what is published from them."""

import lazy_loader

# What notebooks import; the modules have more.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arms": ["BUILDERS", "beyondml_layer"],
        "benchmark": ["product_ratios", "race", "ratio", "waiting"],
        "boxes": ["larger_runs", "print_findings"],
        "capacity": ["CHOICES", "capacity", "full_arm", "full_networks", "one_curve", "widths_table"],
        "claim": ["claim_table", "claim_verdicts"],
        "design": ["read_designs"],
        "differences": ["between"],
        "experiments": [
            *("CONTROLS", "SUFFIXES", "choose_device", "comparison", "controls", "of_all_seeds"),
            *("print_forgetting", "record", "record_phases", "start"),
        ],
        "exercises": ["outcome", "unaided"],
        "factorial": ["HEADS", "VALUES", "Mask", "effects", "effects_table"],
        "figures": ["forest", "results"],
        "findings": ["findings"],
        "networks": [
            *("allocation_table", "dead_outputs", "dedicated", "describe", "idle_units", "narrow", "permuted"),
            *("shared_network", "trunk_owners"),
        ],
        "looks": ["arm_looks", "looks", "title"],
        "pictures": ["diagram", "legend", "mask", "numbers", "strips"],
        "plots": ["LINES", "dots", "learning_curves", "matrix", "owners", "samples", "style", "values"],
        "pooling": ["headline", "over_seeds"],
        "power": ["power_table"],
        "precision": ["fast_bfloat16"],
        "published": ["other_outputs", "published_table", "published_value"],
        "records": ["Run", "read_records"],
        "related": ["larger_repeats", "repeat_arm", "repeats", "worth"],
        "report": ["paired", "report_table"],
        "statistics": ["interval", "over_examples"],
    },
)
