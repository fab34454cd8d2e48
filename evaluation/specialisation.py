# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
"""How far experts specialise in modalities, as a number between 0 and 1, with its interval and its chance level.

Shape suffixes: M modalities, E experts, K experts a token, L layers, Q questions, P parts of questions, R repetitions,
V values (one a layer, and their mean).
"""

from typing import Any

import numpy as np


REPEATS = 1000
"""Bootstrap samples, and shuffles of the modality labels."""


def specialisation(load_ME: np.ndarray, top_k: int) -> np.ndarray:
    """How much a token's expert tells of its modality: 0 is nothing, 1 as much as it can.

    I(M; E) / min(log M, log E - log K), with modalities weighted alike however many tokens each has: text in plenty
    counts no more. I(M; E) is then the Jensen-Shannon divergence of the modalities' loads (Lin 1991, IEEE Transactions
    on Information Theory 37, 145-151).

    Mutual information is made comparable by dividing it by an upper bound (Vinh, Epps and Bailey 2010, JMLR 11,
    2837-2854, list the usual ones). The tightest of theirs, min(H(M), H(E)), can be out of reach here: a token goes to
    K experts alike, so that H(E | M) >= log K. Four modalities that always go to one pair each of four experts score
    .5 at best. With H(E) <= log E, this gives the bound used, which is theirs where K = 1 and all loads are
    even. It does not depend on the load: layers and models compare, and a layer that sends nearly all to the same
    experts scores low, where H(E) would be next to nothing to divide by.

    Args:
        load_ME: [..., M, E], assignments of each modality's tokens to each expert, weighted by 1/K. A modality without
            any is left out.
        top_k: K.

    Returns:
        [...]; 0 where there are fewer than two modalities, or every token goes to all experts.
    """
    total_M1 = load_ME.sum(-1, keepdims=True)
    there_M = total_M1[..., 0] > 0
    num_modalities = np.maximum(there_M.sum(-1), 1)
    weight_M = there_M / num_modalities[..., None]
    share_ME = load_ME / np.where(total_M1 > 0, total_M1, 1)
    information = _entropy((weight_M[..., None] * share_ME).sum(-2)) - (weight_M * _entropy(share_ME)).sum(-1)
    bound = np.minimum(np.log(num_modalities), np.log(load_ME.shape[-1] / top_k))
    return np.where(bound > 0, np.maximum(information, 0) / np.where(bound > 0, bound, 1), 0.0)


def _entropy(share_E: np.ndarray) -> np.ndarray:
    return -(share_E * np.log(np.where(share_E > 0, share_E, 1))).sum(-1)


def bootstrap(load_QLME: np.ndarray, suites_Q: np.ndarray, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """`specialisation` [R, L] over resampled questions: of each suite as many as it has, drawn with replacement."""
    num_questions, *shape = load_QLME.shape
    weights_RQ = np.zeros((REPEATS, num_questions))
    for suite in np.unique(suites_Q):
        (rows,) = np.nonzero(suites_Q == suite)
        weights_RQ[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=REPEATS)
    return specialisation((weights_RQ @ load_QLME.reshape(num_questions, -1)).reshape(REPEATS, *shape), top_k)


def shuffle(load_QLME: np.ndarray, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """`specialisation` [R, L] under shuffled modality labels: what it reads where experts know nothing of modalities.

    Labels are shuffled among parts: all tokens of one modality in one question. Tokens of one picture resemble each
    other and go to the same experts for many a reason: shuffled one by one, they would make any difference look
    certain.
    """
    question_P, modality_P = load_QLME.sum((1, 3)).nonzero()
    _, num_layers, num_modalities, num_experts = load_QLME.shape
    parts_PX = load_QLME[question_P, :, modality_P].reshape(len(modality_P), -1)
    one_hot_MM = np.eye(num_modalities)
    loads_RMX = np.stack([one_hot_MM[rng.permutation(modality_P)].T @ parts_PX for _ in range(REPEATS)])
    loads_RMLE = loads_RMX.reshape(REPEATS, num_modalities, num_layers, num_experts)
    return specialisation(loads_RMLE.swapaxes(1, 2), top_k)


def measure(load_QLME: np.ndarray, suites_Q: np.ndarray, top_k: int, seed: int) -> list[dict[str, Any]]:
    """Specialisation, first its mean over the layers, then that of each.

    Layers are not pooled: an expert's number means nothing across layers, and those that specialise in opposite ways
    would cancel each other.

    Args:
        load_QLME: of each question, assignments of each modality's tokens to each expert, weighted by 1/K.
        suites_Q: the suite of each question.
        top_k: K.
        seed: of the bootstrap and the shuffles.

    Returns:
        `{"value", "interval", "chance", "chance_interval"}` each. "interval" is the basic bootstrap's 95 % over
        questions (Davison and Hinkley 1997, Bootstrap Methods and their Application, section 5.2), which takes off the
        bias that mutual information has where questions are few; "chance" the mean of `shuffle`, and 95 % of it.
    """
    rng = np.random.default_rng(seed)
    value_V = _with_mean(specialisation(load_QLME.sum(0), top_k))
    resampled_RV = _with_mean(bootstrap(load_QLME, suites_Q, top_k, rng))
    shuffled_RV = _with_mean(shuffle(load_QLME, top_k, rng))
    # The bootstrap's quantiles, mirrored at the value.
    interval_V2 = np.clip(2 * value_V - np.quantile(resampled_RV, (0.975, 0.025), axis=0), 0, 1).T
    chance_V2 = np.quantile(shuffled_RV, (0.025, 0.975), axis=0).T
    columns = (value_V, interval_V2, shuffled_RV.mean(0), chance_V2)
    names = ("value", "interval", "chance", "chance_interval")
    return [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _with_mean(values_L: np.ndarray) -> np.ndarray:
    return np.concatenate([values_L.mean(-1, keepdims=True), values_L], axis=-1)
