"The choice among candidates that the mood allows"
import numpy as np
from collab_ext.choose import choose as choose_among

def choose(
    settings, # [choose] of the configuration
    mean, # Scores (n)
    sd, # Their standard deviations (n)
    allowed, # Which candidates the mood allows (n); at least one
    rng,
)->tuple: # Position, None if no score is high enough; the propensities of all (n)
    "Choose as the configuration says; what is not allowed has propensity 0"
    rows = np.flatnonzero(allowed & (mean>=settings.min_score))
    propensities = np.zeros(len(mean))
    if not len(rows): return None,propensities
    res = choose_among(mean[rows], sd[rows], how=settings.how, temp=settings.temperature, epsilon=settings.epsilon, rng=rng)
    propensities[rows] = res.propensities
    return int(rows[res.index]),propensities
