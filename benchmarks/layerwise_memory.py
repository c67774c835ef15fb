"""Memory of layer-wise training on a GPU: `python benchmarks/layerwise_memory.py` (CUDA; `pip install timm`).

What LW-FedSSL's paper (arXiv 2401.11647) measures of one client: ViT-Tiny with 12 blocks on 32x32 images, patch 4, 512 images
of two views a step, MoCo v3's heads, AdamW, a momentum target; end to end, and with all blocks but the last frozen. What
torch's allocator holds at its peak, what it reserves, and what the device has lost (what nvidia-smi shows: CUDA's own context
too), by precision and by how attention is computed.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table
from timm.layers import set_fused_attn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 4
"""The optimiser's state is there from the second on."""


@dataclass(frozen=True)
class Options:
    """Peak memory of end-to-end and of layer-wise training.

    Attributes:
        batch: images per step.
        depth: blocks.
    """

    batch: int = 512
    depth: int = 12


@dataclass(frozen=True)
class Peak:
    """Gigabytes (1e9 bytes)."""

    allocated: float
    reserved: float
    device: float


def head(*sizes: int) -> nn.Sequential:
    """MoCo v3's MLP: batch norm after every layer, without weights after the last."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(sizes), start=2):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after, affine=i < len(sizes))]
        if i < len(sizes):
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def contrast(queries: Tensor, keys: Tensor, temperature: float = 0.05) -> Tensor:
    """InfoNCE of one view's queries among the other's keys."""
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def peak(layer_wise: bool, half: bool, fused: bool, options: Options) -> Peak:
    """Train a few steps from fresh, and tell the peak."""
    set_fused_attn(fused)
    torch.manual_seed(0)
    device = torch.device("cuda")
    encoder = VisionTransformer(32, 4, embed_dim=192, depth=options.depth, num_heads=3, num_classes=0).to(device)
    projector, predictor = head(192, 512, 512, 256).to(device), head(256, 512, 256).to(device)
    target = copy.deepcopy(nn.Sequential(encoder, projector)).requires_grad_(False)
    if layer_wise:
        encoder.requires_grad_(False)
        encoder.blocks[-1].requires_grad_(True)
        encoder.norm.requires_grad_(True)
    online = nn.Sequential(encoder, projector)
    learns = [p for p in (*online.parameters(), *predictor.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(learns)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(STEPS):
        images = torch.randn(2 * options.batch, 3, 32, 32, device=device)
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            one, two = predictor(online(images)).chunk(2)
            with torch.no_grad():
                first, second = target(images).chunk(2)
            loss = contrast(one, second) + contrast(two, first)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), online.parameters(), strict=True):
                slow.lerp_(fast, 0.01)
    free, total = torch.cuda.mem_get_info()
    told = Peak(torch.cuda.max_memory_allocated() / 1e9, torch.cuda.max_memory_reserved() / 1e9, (total - free) / 1e9)
    del encoder, projector, predictor, target, online, learns, optimizer, loss, one, two, first, second, images
    torch.cuda.empty_cache()
    return told


def main(options: Options) -> None:
    """Command line."""
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/layerwise_memory.py: no CUDA device; expected one, its allocator is what is measured")
    table = Table(title=f"Peak memory, end to end / layer-wise, GB ({torch.cuda.get_device_name()}, torch {torch.__version__})")
    for column in ("precision", "attention", "allocated", "ratio", "reserved", "ratio", "of the device", "ratio"):
        table.add_column(column)
    for half, fused in itertools.product((False, True), (True, False)):
        whole, layer = (peak(layer_wise, half, fused, options) for layer_wise in (False, True))
        cells = ["bf16 autocast" if half else "fp32", "fused" if fused else "matrices kept"]
        for name in ("allocated", "reserved", "device"):
            a, b = getattr(whole, name), getattr(layer, name)
            cells += [f"{a:.2f} / {b:.2f}", f"{a / b:.2f}"]
        table.add_row(*cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main(tyro.cli(Options))
