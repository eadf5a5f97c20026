"""Networks that are not ours, trained and pruned: what plain PyTorch makes of them, or refused."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, NOT, REFUSED, Functional, images, mlp, samples
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils.data import DataLoader, Dataset, TensorDataset

from psplib.core.errors import PsplibError
from psplib.core.seeds import derive
from psplib.nn.data import Split
from psplib.nn.masks import Mask
from psplib.pruning.own import Pruned, prune, retrain
from psplib.training.fit import order
from psplib.training.trainer import flat

pytestmark = pytest.mark.filterwarnings(
    "ignore:The first pruning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
SETTINGS = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.02, "batch_size": 7}


def make(name: str) -> nn.Module:
    torch.manual_seed(3)
    return NETWORKS[name]().double().train()


def data(name: str) -> tuple[Split, Split]:
    torch.manual_seed(4)
    return samples(name, 30), samples(name, 11)


def half(model: nn.Module) -> Mask:
    """A mask of about half of what is trained."""
    generator = torch.Generator().manual_seed(5)
    dense = Mask.dense(model)
    parts = [
        (torch.rand(p.numel(), generator=generator) < 0.5) | (not p.requires_grad)
        for p in model.parameters()
    ]
    return dense.with_flat(torch.cat(parts))


def epoch_of_torch(
    model: nn.Module, mask: Mask, train: Split, epoch: int = 1, shrinkage: float = 0.0
) -> torch.optim.SGD:
    """An epoch of SGD, written out; the mask after every step."""
    sgd = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.02)
    if epoch == 1:
        mask.apply_(model)
    model.train()
    for rows in order(len(train), 0, epoch).split(7):
        sgd.zero_grad()
        F.cross_entropy(model(train.x[rows]), train.y[rows]).backward()
        learnt = [p for p in model.parameters() if p.requires_grad]
        for p in learnt:  # PyTorch leaves alone what has none
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
        sgd.step()
        with torch.no_grad():
            for p in learnt:
                p.sub_(shrinkage * p * (1 - p.grad.abs()).clamp(min=0))
        mask.apply_(model)
    return sgd


def assert_same_state(found: dict[str, Tensor], model: nn.Module, rtol: float = 1e-6) -> None:
    there = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, value in found.items():
        torch.testing.assert_close(value, there[name].detach(), rtol=rtol, atol=1e-9)
    assert {n for n, p in model.named_parameters() if p.requires_grad} <= set(found)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_under_a_mask_is_that_of_pytorch_or_refused(name: str) -> None:
    model, (train, validation) = make(name), data(name)
    mask, before = half(model), {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    if message := NOT.get(name, {}).get("retrained"):
        with pytest.raises(PsplibError, match=message):
            retrain(model, mask, train, validation, epochs=1, **SETTINGS)
    else:
        result = retrain(model, mask, train, validation, epochs=1, **SETTINGS)
        oracle = make(name)
        torch.manual_seed(derive("own", 0))
        epoch_of_torch(oracle, mask, train)
        assert_same_state(result.states[0], oracle)
        oracle.eval()
        with torch.no_grad():
            loss = F.cross_entropy(oracle(validation.x.clone()), validation.y)
        assert result.points["validation_loss"][0] == pytest.approx(float(loss), rel=1e-9)
    for n, t in model.state_dict().items():
        assert torch.equal(t, before[n]), n
    assert [m.training for m in model.modules()] == modes


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_lobster_is_its_equation_at_any_network(name: str) -> None:
    """An epoch, the largest threshold, and an epoch under its mask."""
    model, (train, validation) = make(name), data(name)
    x = validation.x.clone()
    gradually = {"shrinkage": 0.01, "tolerance": 0.3, "patience": 0, "target_sparsity": 0.9999}
    if message := NOT.get(name, {}).get("pruned"):
        with pytest.raises(PsplibError, match=message):
            prune(model, train, validation, max_epochs=2, **gradually, **SETTINGS)
        return
    result = prune(model, train, validation, max_epochs=2, **gradually, **SETTINGS)
    assert torch.equal(validation.x, x)
    oracle, dense = make(name), Mask.dense(model)
    torch.manual_seed(derive("own", 0))
    epoch_of_torch(oracle, dense, train, shrinkage=0.01)
    assert_same_state(result.states[0], oracle)
    assert result.masks[0].kept == len(dense.flat)

    oracle.eval()
    weights = flat(oracle)
    is_trained = torch.cat([torch.full((p.numel(),), p.requires_grad) for p in oracle.parameters()])

    def loss_without(threshold: float) -> float:
        kept = weights.where((weights.abs() > threshold) | ~is_trained, 0)
        nn.utils.vector_to_parameters(kept, oracle.parameters())
        with torch.no_grad():
            loss = float(F.cross_entropy(oracle(x.clone()), validation.y))
        nn.utils.vector_to_parameters(weights, oracle.parameters())
        return loss

    sizes = torch.unique(weights[is_trained].abs())
    threshold, bound = result.points["threshold"][0], 1.3 * loss_without(-1.0)
    beyond = sizes[sizes > threshold * (1 + 1e-9)]
    assert threshold == 0 or loss_without(threshold * (1 + 1e-9)) <= bound * (1 + 1e-9)
    assert len(beyond) == 1 or not loss_without(float(beyond[0]) * (1 + 1e-9)) <= bound
    survives = (weights.abs() > threshold * (1 + 1e-9)) | ~is_trained
    assert torch.equal(result.masks[1].flat, survives)
    assert result.points["sparsity"][1] == pytest.approx(
        1 - float(survives[is_trained].double().mean())
    )
    assert not result.states[1].keys() - result.states[0].keys()


@pytest.mark.parametrize(
    "name",
    ["no bias", "BatchNorm1d", "groups", "residual", "pruned by torch", "spectral norm"],
)
def test_a_reparametrised_network_trains_on_as_ours_does(name: str) -> None:
    """`torch.nn.utils.prune` as an oracle: an epoch by its means, and by ours."""
    model, (train, validation) = make(name), data(name)
    mask = half(model)
    torch.manual_seed(6)
    first = retrain(model, mask, train, validation, epochs=1, **SETTINGS)
    oracle = make(name)
    untrained = replace(
        first, states=(dict(model.named_parameters()) | dict(model.named_buffers()),)
    )
    untrained.apply_(oracle, reparametrise=True)
    torch.manual_seed(derive("own", 0))
    everything = Mask.dense(oracle)
    epoch_of_torch(oracle, everything, train)
    for module in list(oracle.modules()):
        for leaf in [
            leaf.removesuffix("_orig") for leaf, _ in module.named_parameters(recurse=False)
        ]:
            if torch_prune.is_pruned(module) and hasattr(module, f"{leaf}_orig"):
                torch_prune.remove(module, leaf)
    other = make(name)
    first.apply_(other)
    if name != "pruned by torch":
        assert_same_state(first.states[0], oracle)
    x = validation.x
    torch.testing.assert_close(other.eval()(x), oracle.eval()(x), rtol=1e-6, atol=1e-9)


class Counted(Dataset):
    """Samples that are drawn anew whenever they are asked for."""

    def __init__(self, split: Split) -> None:
        self.split, self.asked = split, 0

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.asked += 1
        return self.split.x[i] + 0.1 * torch.randn(6, dtype=torch.float64), self.split.y[i]


@pytest.mark.parametrize("kind", ["loader", "data set", "list", "pair", "images", "own loader"])
def test_data_may_be_any_minibatches(kind: str) -> None:
    model, (train, validation) = make("nested"), data("nested")
    rows = order(len(train), 0, 1)
    ordered = Split(train.x[rows], train.y[rows])
    given = {
        "loader": DataLoader(TensorDataset(ordered.x, ordered.y), 7),
        "own loader": Reiterable(ordered),
        "data set": TensorDataset(train.x, train.y),
        "images": Listed(train),
        "list": list(zip(ordered.x.split(7), ordered.y.split(7), strict=True)),
        "pair": (train.x, train.y),
    }[kind]
    mask = half(model)
    found = retrain(
        model,
        mask,
        given,
        DataLoader(TensorDataset(*vars(validation).values()), 4),
        epochs=1,
        **SETTINGS,
    )
    expected = retrain(model, mask, train, validation, epochs=1, **SETTINGS)
    assert found.states[0].keys() == expected.states[0].keys()
    for name, value in found.states[0].items():
        torch.testing.assert_close(value, expected.states[0][name])
    assert found.points["validation_loss"][0] == pytest.approx(
        expected.points["validation_loss"][0]
    )


class Reiterable:
    def __init__(self, split: Split) -> None:
        self.split = split

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.split.x.split(7), self.split.y.split(7), strict=True)


class Listed(Counted):
    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.split.x[i], self.split.y[i]


def test_a_loader_augments_every_epoch_anew_and_validation_is_read_once() -> None:
    model, (train, validation) = make("nested"), data("nested")
    training, judged = Counted(train), Counted(validation)
    loader = DataLoader(training, 7, shuffle=True)

    def run() -> Pruned:
        return retrain(model, Mask.dense(model), loader, judged, epochs=3, **SETTINGS)

    one = run()
    assert (training.asked, judged.asked) == (3 * len(train), len(validation))
    torch.randn(5)
    other = run()
    assert one.history.equals(other.history)
    assert one.history["validation_loss"].nunique() == 3


def test_what_is_frozen_is_left_alone() -> None:
    model, (train, validation) = make("nested"), data("nested")
    model[0].requires_grad_(False)
    before = flat(model)
    result = prune(model, train, validation, max_epochs=3, patience=0, shrinkage=0.1, **SETTINGS)
    dense = Mask.dense(model)
    frozen = dense.with_flat(
        torch.cat([torch.full((p.numel(),), not p.requires_grad) for p in model.parameters()])
    )
    assert result.points["kept"][0] == int((~frozen.flat).sum())
    assert result.masks[-1].flat[frozen.flat].all()
    assert not {"0.0.weight", "0.0.bias"} & set(result.states[-1])
    result.apply_(model)
    assert torch.equal(flat(model)[frozen.flat], before[frozen.flat])
    assert not torch.equal(flat(model), before)
    everything_off = dense.with_flat(torch.zeros_like(dense.flat))
    with pytest.raises(PsplibError, match=r"0\.0\.weight is frozen, and not zero"):
        retrain(model, everything_off, train, validation)
    model.requires_grad_(False)
    with pytest.raises(PsplibError, match="no parameter that requires a gradient"):
        prune(model, train, validation)


def test_any_loss_and_any_outputs() -> None:
    model, (train, validation) = make("nested"), data("nested")
    target = lambda split: Split(split.x, split.x[:, :3])  # noqa: E731
    result = retrain(
        model,
        Mask.dense(model),
        target(train),
        target(validation),
        loss=F.mse_loss,
        epochs=5,
        learning_rate=0.1,
    )
    best = result.history["validation_loss"].idxmin()
    assert result.points["best_epoch"][0] == best + 1
    assert result.points["validation_error"].isna().all()
    result.apply_(model)
    with torch.no_grad():
        loss = F.mse_loss(model.eval()(validation.x), validation.x[:, :3])
    assert result.points["validation_loss"][0] == pytest.approx(float(loss))


def test_a_loss_that_weighs_is_that_of_all_validation_samples() -> None:
    model, (train, validation) = make("nested"), data("nested")
    loss = nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0]).double(), label_smoothing=0.1)
    result = retrain(model, Mask.dense(model), train, validation, loss=loss, epochs=1, **SETTINGS)
    result.apply_(model)
    with torch.no_grad():
        expected = float(loss(model.eval()(validation.x), validation.y))
    assert result.points["validation_loss"][0] == pytest.approx(expected, rel=1e-9)


def test_answers_that_are_no_classes_have_no_error() -> None:
    model, splits = nn.Sequential(*mlp(), nn.Linear(3, 1)).double(), data("nested")
    result = retrain(
        model,
        Mask.dense(model),
        *splits,
        loss=lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], (y > 0).double()),
        epochs=2,
    )
    assert result.points["validation_error"].isna().all()
    assert result.points["best_epoch"][0] == result.history["validation_loss"].idxmin() + 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_right_value_is_refused(name: str) -> None:
    make_it, message = REFUSED[name]
    model = make_it()
    model = model if name == "lazy" else model.double()
    split = images()
    mask = Mask(torch.ones(0) > 0, ()) if name == "lazy" else Mask.dense(model)
    with pytest.raises(PsplibError, match=message):
        prune(model, split, split)
    with pytest.raises(PsplibError, match=message):
        retrain(model, mask, split, split)


def test_bad_input_is_one_sentence() -> None:
    model, (train, validation) = make("nested"), data("nested")
    mask = Mask.dense(model)

    def refused(message: str, *data: object, model: nn.Module = model, **settings: object) -> None:
        own = Mask.dense(model)
        settings = {"batch_size": 7} | settings
        with pytest.raises(PsplibError, match=message):
            prune(model, *data or (train, validation), **settings)
        with pytest.raises(PsplibError, match=message):
            retrain(model, own, *data or (train, validation), **settings)

    onehot = F.one_hot(train.y, 3)
    for y in (train.y.int(), train.y[:, None], onehot, onehot.double(), train.y + 1):
        refused(r"Labels must be int64 of shape \(N,\)", Split(train.x, y), validation)
        refused(r"Labels must be int64 of shape \(N,\)", train, Split(train.x, y))
    refused(
        "weights of float64, cannot compute .* float32", Split(train.x.float(), train.y), validation
    )
    refused("generator", ((x, y) for x, y in [(train.x, train.y)]), validation)
    refused("Data must be a Split", 3, validation)
    refused("no samples in this epoch", [], validation)
    refused("no samples in this epoch", Split(train.x[:0], train.y[:0]), validation)
    refused("validation data have no samples", train, [])
    refused("needs as many labels", Split(train.x, train.y[:5]), validation)
    refused("give a loss of your own", model=nn.Sequential(model, nn.Unflatten(1, (3, 1))))
    refused("The loss does not take outputs of shape", loss=F.mse_loss)
    refused("A loss must be one number", loss=lambda out, y: out)
    refused("has no gradient", loss=lambda out, y: out.detach().mean())
    refused("diverged", learning_rate=1e200)
    refused("learning_rate must be a number of at least 0", learning_rate=-1)
    refused("momentum must be a number from 0 to below 1", momentum=1)
    refused("batch_size must be a whole number", batch_size=0)
    refused("seed must be a whole number", seed=-1)
    norm = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    alone = Split(train.x[:15], train.y[:15])
    refused(r"1 says Expected more than 1 value .*drop_last", alone, validation, model=norm)
    mixed = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3).double())
    refused("of one type on one device", model=mixed)
    lost = make("nested")
    nn.init.constant_(lost[0][0].bias, torch.nan)
    refused(r"0\.0\.bias is not finite", model=lost)
    with pytest.raises(PsplibError, match="target_sparsity must be a number"):
        prune(model, train, validation, target_sparsity=1)
    with pytest.raises(PsplibError, match="The mask belongs to another network"):
        retrain(norm, mask, train, validation)
    vectors = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6)).double()
    six = [Split(s.x, s.y) for s in (train, validation)]
    assert len(prune(vectors, *six, max_epochs=1).points) == 1  # a mask without matrices


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_not_in_it(kind: torch.dtype) -> None:
    model, (train, validation) = make("nested").to(kind), data("nested")
    train, validation = (Split(s.x.to(kind), s.y) for s in (train, validation))
    result = retrain(model, Mask.dense(model), train, validation, epochs=1, **SETTINGS)
    result.apply_(model)
    with torch.no_grad():
        logits = model.eval()(validation.x).double()
    loss = float(F.cross_entropy(logits, validation.y))
    assert result.points["validation_loss"][0] == pytest.approx(loss, rel=1e-6)


def test_what_a_pass_adds_is_not_put_back() -> None:
    model, splits = make("remembers"), data("nested")
    result = prune(model, *splits, max_epochs=2, **SETTINGS)
    assert not hasattr(model, "shift")
    assert model.seen == []
    result.apply_(model)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stops", [False, True])
@pytest.mark.parametrize(
    "name", ["BatchNorm1d", "dropout", "frozen", "recurrent", "tied", "spectral norm"]
)
def test_the_network_is_as_it_was_also_after_an_exception(name: str, stops: bool) -> None:
    model, (train, validation) = make(name), data(name)
    list(model.modules())[-1].eval()
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    called: list[int] = []
    next(model.children()).register_forward_hook(lambda *_: called.append(1))
    before = [(p, p.data_ptr(), p.requires_grad, p.grad) for p in model.parameters()]
    values = {n: t.clone() for n, t in model.state_dict().items()}
    modes, numbers = [m.training for m in model.modules()], torch.get_rng_state()
    hooks = [len(m._forward_hooks) for m in model.modules()]

    def report(done: float, whole: float, note: str) -> None:
        if stops and note.startswith(("LOBSTER, epoch 2", "retraining")):
            raise Stop

    for train_it in (
        lambda: prune(
            model,
            train,
            validation,
            max_epochs=3,
            patience=0,
            report=report,
            target_sparsity=0.999,
            **SETTINGS,
        ),
        lambda: retrain(
            model, Mask.dense(model), train, validation, epochs=2, report=report, **SETTINGS
        ),
    ):
        if stops:
            with pytest.raises(Stop):
                train_it()
        else:
            train_it()
        assert [(p, p.data_ptr(), p.requires_grad, p.grad) for p in model.parameters()] == before
        assert [m.training for m in model.modules()] == modes
        assert [len(m._forward_hooks) for m in model.modules()] == hooks
        assert torch.equal(torch.get_rng_state(), numbers)
        for n, t in model.state_dict().items():
            assert torch.equal(t, values[n]), n
    assert called


def test_a_point_is_put_into_the_network_whole_or_not_at_all() -> None:
    model, (train, validation) = make("BatchNorm1d"), data("BatchNorm1d")
    result = prune(model, train, validation, max_epochs=6, patience=0, shrinkage=0.1, **SETTINGS)
    points = result.points
    assert points["point"].tolist() == list(range(len(result.states)))
    assert points["sparsity"].is_monotonic_increasing
    for point in (0, -1):
        result.apply_(model, point)
        assert not flat(model)[~result.masks[point].flat].any()
        with torch.no_grad():
            outputs = model.eval()(validation.x)
        loss = float(F.cross_entropy(outputs, validation.y))
        assert points["validation_loss"].iloc[point] == pytest.approx(loss)
        error = float((outputs.argmax(1) != validation.y).double().mean())
        assert points["validation_error"].iloc[point] == pytest.approx(error)
    before = flat(model)
    with pytest.raises(PsplibError, match=r"There are \d points; 6 was asked for"):
        result.apply_(model, 6)
    assert torch.equal(flat(model), before)
    other = nn.Sequential(*mlp()).double()
    with pytest.raises(PsplibError, match="belongs to another network"):
        result.apply_(other)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tied", "0.weight is the same as 2.weight"),
        ("recurrent", "lstm.weight_ih_l0 belongs to a recurrent layer"),
        ("attention, sample first", r"layer.self_attn.out_proj.weight .* is never called"),
        ("forward that holds a parameter", "0.weight .* is never called"),
    ],
)
def test_what_pytorch_cannot_reparametrise_is_refused(name: str, why: str) -> None:
    model, splits = make(name), data(name)
    result, before = retrain(model, half(model), *splits, epochs=1), flat(model)
    with pytest.raises(PsplibError, match=why):
        result.apply_(model, reparametrise=True)
    assert torch.equal(flat(model), before)
    result.apply_(model)
    assert not flat(model)[~half(model).flat].any()


def test_pruning_a_network_that_has_not_learnt_is_warned_of() -> None:
    model, (train, validation) = Functional().double(), data("nested")
    with pytest.warns(
        UserWarning, match=r"The first pruning, after epoch \d+, took 9\d\.\d% of the"
    ):
        prune(model, train, validation, learning_rate=1e-9, patience=0, tolerance=0.2, max_epochs=4)
