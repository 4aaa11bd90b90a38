"""Code of a model card that opens its files with other people's libraries; the tests run it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def snippet(name: str, config: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown for one file of an export, to be run in its folder."""
    kinds = {".safetensors": _tensors, ".pt2": _torch_export, ".onnx": _onnx, ".parquet": _table, ".faiss": _index}
    return kinds[Path(name).suffix](name, config)


def _python(*lines: str) -> list[str]:
    return ["```python", *lines, "```"]


def _tensors(name: str, config: Mapping[str, Any]) -> list[str]:
    steps = config["preprocessing"]
    if config["library_name"] == "timm":
        package = "timm"
        given = "".join(f", {name}={value}" for name, value in config["built_with"].items())
        build = [f'backbone = timm.create_model(config["arch"], in_chans={len(config["bands"])}, num_classes=0{given})']
    else:
        package = "torchvision"
        build = ['backbone = torchvision.models.get_model(config["arch"])', "backbone.fc = torch.nn.Identity()"]
        if len(config["bands"]) != 3:
            build.append(f"backbone.conv1 = torch.nn.Conv2d({len(config['bands'])}, 64, 7, 2, 3, bias=False)")
    scale = [
        '    mean, std = (torch.tensor(steps[key]).view(-1, 1, 1) for key in ("mean", "std"))',
        "    features = backbone((x - mean) / std)",
    ]
    if steps["per_image_normalisation"]:
        scale = [
            "    mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True).clamp(min=1)",
            "    features = backbone((x - mean) / std)",
        ]
    elif steps["low"] is not None:
        scale.insert(0, '    low, high = (torch.tensor(steps[key]).view(-1, 1, 1) for key in ("low", "high"))')
        scale.insert(1, "    x = x.clamp(low, high)")
    parts = [
        "    parts = [",
        '        weight * F.normalize(F.linear(features, state[f"heads.{head}.weight"], state[f"heads.{head}.bias"]))',
        '        for head, weight in config["head_weights"].items()',
        "    ]",
        "    return F.normalize(torch.cat(parts, 1))",
    ]
    return _python(
        "import json",
        "",
        f"import torch, {package}",
        "from safetensors.torch import load_file",
        "from torch.nn import functional as F",
        "",
        'config = json.load(open("config.json"))',
        f'steps, state = config["preprocessing"], load_file("{name}")',
        *build,
        'backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith("heads.")})',
        "backbone.eval()",
        "",
        "",
        "@torch.inference_mode()",
        f"def embed(pixels):  # (B, {len(config['bands'])}, H, W) as stored, {_dtype(config)}",
        '    side, size, mode = steps["resize_to"], steps["centre_crop"], steps["interpolation"]',
        "    x = F.interpolate(pixels, size=(side, side), mode=mode, antialias=True).float()",
        "    start = (side - size) // 2",
        "    x = x[..., start : start + size, start : start + size]",
        *scale,
        *(parts if config["heads"] else ["    return F.normalize(features)"]),
    )


def _dtype(config: Mapping[str, Any]) -> str:
    if config["bands"] == ["R", "G", "B"]:
        return "uint8"
    return "digital numbers as float32"


def _shape(config: Mapping[str, Any]) -> str:
    return (
        f"(B, {len(config['bands'])}, {config['input']['side']}, {config['input']['side']}), {config['input']['dtype']}"
    )


def _torch_export(name: str, config: Mapping[str, Any]) -> list[str]:
    return _python(
        "import torch",
        "",
        f'embed = torch.export.load("{name}").module()  # pixels {_shape(config)} -> (B, {config["dimensions"]})',
    )


def _onnx(name: str, config: Mapping[str, Any]) -> list[str]:
    return _python(
        "import onnxruntime",
        "",
        f'session = onnxruntime.InferenceSession("{name}")',
        "",
        "",
        f"def embed(pixels):  # {_shape(config)} -> (B, {config['dimensions']})",
        '    return session.run(["embedding"], {"pixels": pixels})[0]',
    )


def _table(name: str, config: Mapping[str, Any]) -> list[str]:
    return [
        "The ten images nearest to one, in DuckDB (without extensions):",
        "",
        "```sql",
        "SELECT name, list_inner_product(embedding, query) AS cosine",
        f"FROM '{name}', (SELECT embedding AS query FROM '{name}' WHERE name = 'NAME')",
        "ORDER BY cosine DESC LIMIT 10",
        "```",
    ]


def _index(name: str, config: Mapping[str, Any]) -> list[str]:
    table = Path(name).with_suffix(".parquet")
    return [
        f"Ids of the index are rows of `{table}`, counted from 0:",
        "",
        *_python(
            "import faiss, pandas",
            "",
            f'index = faiss.read_index("{name}")',
            f'images = pandas.read_parquet("{table}", columns=["name", "labels"])',
            "cosines, rows = index.search(index.reconstruct(0)[None], 10)  # the ten nearest to the first image",
            "print(images.iloc[rows[0]])",
        ),
    ]
