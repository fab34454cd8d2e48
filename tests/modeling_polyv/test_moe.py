# Copyright 2026 The PolyV authors. Licensed under the Apache License, Version 2.0.
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from polyv.modeling_polyv.moe import PolyVSparseMoeBlock, load_balancing_loss
from tests import tiny


def block(implementation="eager", **arguments) -> PolyVSparseMoeBlock:
    torch.manual_seed(0)
    config = tiny.polyv_config(text=arguments).text_config
    config._experts_implementation = implementation
    module = PolyVSparseMoeBlock(config)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def by_hand(module: PolyVSparseMoeBlock, x: torch.Tensor, normalised: bool) -> torch.Tensor:
    """The paper's formula, one token and one expert at a time."""
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        probabilities = (module.gate.weight @ token).softmax(dim=0)
        weights, experts = probabilities.topk(module.gate.top_k)
        if normalised:
            weights = weights / weights.sum()
        output = torch.zeros_like(token)
        for weight, expert in zip(weights, experts, strict=True):
            gate, up = (module.experts.gate_up_proj[expert] @ token).chunk(2)
            output = output + weight * (module.experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(output)
    return torch.stack(rows).reshape(x.shape)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
def test_block_computes_the_papers_formula(implementation, top_k, normalised):
    module = block(implementation, num_experts_per_tok=top_k, norm_topk_prob=normalised)
    x = torch.randn(2, 5, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(module(x), by_hand(module, x, normalised), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
def test_experts_implementations_agree_on_gradients(implementation):
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(1))
    gradients = []
    for module in (block("eager"), block(implementation)):
        module(x).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in module.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-4, msg=name)


def test_eager_backward_does_not_zero_fill_the_fused_weights():
    module = block("eager")
    pending, seen = [module(torch.randn(1, 6, 48)).sum().grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [parent for parent, _ in node.next_functions]
    names = [type(node).__name__ for node in seen]
    # An indexed fused weight would show as one SelectBackward for each expert and matrix.
    assert names.count("UnbindBackward0") == 2
    assert "SelectBackward0" not in names


def test_an_expert_without_tokens_gets_a_zero_gradient_not_none():
    module = block("eager")
    with torch.no_grad():
        module.gate.weight.zero_()
        module.gate.weight[:2] = 1.0
    module(torch.rand(1, 6, 48)).sum().backward()
    assert module.experts.down_proj.grad[:2].abs().sum() > 0
    assert module.experts.down_proj.grad[2:].abs().sum() == 0


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_perfect_balance_scores_one(top_k):
    # Token t prefers experts t, t+1, …: every expert is chosen equally often, with equal mean probability.
    logits = torch.stack([torch.tensor([3.0, 2.0, 1.0, 0.0]).roll(shift) for shift in range(4)])
    assert load_balancing_loss((logits, logits), 4, top_k).item() == pytest.approx(1.0)


def test_collapse_onto_one_expert_scores_the_number_of_experts():
    logits = torch.tensor([[50.0, 0.0, 0.0, 0.0]]).repeat(8, 1)
    assert load_balancing_loss((logits,), 4, 1).item() == pytest.approx(4.0)


def test_layers_collapsed_onto_opposite_experts_do_not_look_balanced():
    left = torch.tensor([[50.0, 0.0]]).repeat(8, 1)
    right = left.flip(-1)
    assert load_balancing_loss((left, right), 2, 1).item() == pytest.approx(2.0)
    pooled = load_balancing_loss_func((left, right), 2, 1).item()
    assert pooled == pytest.approx(1.0), "the library's pooled loss no longer has the fault this guards against"


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(2, 5), st.integers(0, 10_000), st.data())
def test_loss_matches_its_definition(layers, batch, length, num_experts, seed, data):
    top_k = data.draw(st.integers(1, num_experts))
    generator = torch.Generator().manual_seed(seed)
    router_logits = tuple(torch.randn(batch * length, num_experts, generator=generator) for _ in range(layers))
    mask = (torch.rand(batch, length, generator=generator) > 0.4).long()
    mask[0, 0] = 1
    expected = []
    for logits in router_logits:
        kept = [row.softmax(0) for row, keep in zip(logits, mask.flatten(), strict=True) if keep]
        counts, mass = [0] * num_experts, [0.0] * num_experts
        for row in kept:
            for expert in row.topk(top_k).indices.tolist():
                counts[expert] += 1
            for expert in range(num_experts):
                mass[expert] += row[expert].item()
        fractions = [count / (top_k * len(kept)) for count in counts]
        expected.append(num_experts * sum(f * m / len(kept) for f, m in zip(fractions, mass, strict=True)))
    measured = load_balancing_loss(router_logits, num_experts, top_k, mask).item()
    assert measured == pytest.approx(sum(expected) / layers, rel=1e-4)


def test_a_mask_longer_than_the_tokens_is_read_from_its_end():
    logits = torch.randn(2, 4)
    mask = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 0]])
    expected = load_balancing_loss((logits[:1],), 4, 2)
    torch.testing.assert_close(load_balancing_loss((logits,), 4, 2, mask), expected)


def test_a_dense_model_has_no_balance():
    with pytest.raises(ValueError, match="router_logits"):
        load_balancing_loss((), 4, 2)


def test_nothing_but_padding_has_no_load():
    assert load_balancing_loss((torch.randn(3, 4),), 4, 2, torch.zeros(1, 3)).item() == 0
