"""What the command line offers, by name; torch is not needed to say it."""

SCALES = {
    "smoke": "scikit-learn's digits, a minute or two: first contact and tests",
    "quick": "the real data, 3 replicas: a laptop's CPU",
    "paper": "the real data, 10 replicas, 3 LOBSTER seeds: the paper's size",
}
PUBLISHED = "published"  # what `results/` holds
ENGINES = ("local", "ray")
