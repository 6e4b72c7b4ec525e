"""Folders of models: what is read, what is refused, and from where they come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ctxembed
import onnx
import pytest
from ctxembed import backends
from ctxembed._backends.onnx.graph_file import external_data
from onnx import TensorProto, helper

from tests.backends.tiny_qwen3 import CONFIG, SEPARATOR, write_folder

API_MODELS = ctxembed.models()


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny model to change."""
    return shutil.copytree(tiny_folder, tmp_path / "changed")


def change(path: Path, **values: object) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_folder_is_served_under_its_name_and_costs_nothing(tiny):
    model = tiny.model
    assert (model.name, model.dimensions, model.separator, model.cost(10**9)) == ("tiny-qwen3", 64, None, 0)
    assert ctxembed.get_model("tiny-qwen3") is model
    assert tiny.space("tiny-qwen3", 64) == f"tiny-qwen3#{model.digest}" == tiny.embed([["a"]]).space


def test_the_graph_and_its_weights_are_small(tiny_folder):
    assert sorted(path.name for path in (tiny_folder / "onnx").iterdir()) == ["model.onnx", "model.onnx_data"]
    assert sum(path.stat().st_size for path in (tiny_folder / "onnx").iterdir()) < 1_000_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": True}, "the graph is causal: another second chunk changes the vector of the first by"),
        ({"cached": True}, "needs inputs that an encoder of text does not have: past_key_values.0.key"),
        ({"pooled": True}, r"the output is pooled, .*sentence_embedding"),
    ],
)
def test_a_graph_that_cannot_chunk_late_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        backends.load(write_folder(tmp_path / "model", **options), threads=1)


def test_a_graph_that_pools_under_the_usual_name_is_refused(folder):
    graph = onnx.load(folder / "onnx" / "model.onnx")
    states = graph.graph.output[0]
    del states.type.tensor_type.shape.dim[:]
    for node in graph.graph.node:
        if node.output[0] == "last_hidden_state":
            node.op_type = "ReduceMean"
            node.attribute.extend([helper.make_attribute("axes", [1]), helper.make_attribute("keepdims", 1)])
    for size in ("batch", "sequence", 64):
        dimension = states.type.tensor_type.shape.dim.add()
        setattr(dimension, "dim_value" if isinstance(size, int) else "dim_param", size)
    shutil.rmtree(folder / "onnx")
    (folder / "onnx").mkdir()
    onnx.save_model(graph, folder / "onnx" / "model.onnx")
    with pytest.raises(ValueError, match=r"has the shape \(1, 1, 64\) .* it is pooled"):
        backends.load(folder, threads=1)


def test_a_model_without_separator_is_refused(folder):
    change(folder / "config.json", model_type="bert", architectures=["BertModel"])
    (folder / "modules.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    change(folder / "tokenizer_config.json", sep_token=None)
    with pytest.raises(ValueError, match="the model has no separator: neither special_tokens_map.json nor"):
        backends.load(folder)
    change(folder / "tokenizer_config.json", sep_token="<|nowhere|>")
    with pytest.raises(ValueError, match=r"does not have the model's separator '<\|nowhere\|>'"):
        backends.load(folder)
    change(folder / "tokenizer_config.json", sep_token=SEPARATOR)
    embedder = backends.load(folder, threads=1)
    assert embedder.model.dimension_choices == (64,)  # another architecture: trained for no prefixes


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True}, "pools by pooling_mode_cls_token"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, "pools by pooling_mode_lasttoken"),
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Dense"}],
            "ends in sentence_transformers.models.Dense",
        ),
        ("modules.json", {"type": 1}, "must hold a JSON array"),
        ("config_sentence_transformers.json", {"prompts": {"query": "query: "}}, r"needs a prompt .*\(query\)"),
        ("config.json", CONFIG | {"max_position_embeddings": 0}, "max_position_embeddings must be a positive int"),
        ("config.json", [], "must hold a JSON object, got list"),
        ("config.json", CONFIG | {"hidden_size": 96}, "have 64 dimensions, but config.json says 96"),
        ("tokenizer.json", {"model": {}}, "tokenizer.json is no tokenizer"),
    ],
)
def test_what_a_folder_says_is_checked(folder, file, content, message):
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        backends.load(folder, threads=1)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).name if name != "onnx/model.onnx" else "no ONNX graph"):
        backends.load(folder)


def test_neither_folder_nor_id(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a folder nor ORGANISATION/NAME\[@REVISION\]"):
        backends.load(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="a model is a folder"):
        backends.load(tmp_path / "file")


def test_one_of_several_graphs_has_to_be_named(folder):
    quantised = folder / "onnx" / "model_quantized.onnx"
    shutil.copy(folder / "onnx" / "model.onnx", quantised)
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "model_fp16.onnx")
    with pytest.raises(
        ValueError, match=r"several graphs: name one of onnx/model_fp16.onnx, onnx/model_quantized.onnx"
    ):
        backends.load(folder)
    assert backends.load(folder, graph="onnx/model_quantized.onnx", threads=1).model.dimensions == 64
    quantised.unlink()
    assert backends.load(folder, threads=1).model.dimensions == 64
    with pytest.raises(FileNotFoundError, match="the folder has no other.onnx"):
        backends.load(folder, graph="other.onnx")


def test_weights_outside_of_the_folder_are_refused(folder):
    graph = onnx.load(folder / "onnx" / "model.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../config.json"
    (folder / "onnx" / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match=r"has weights in '../config.json', which is not in its folder"):
        backends.load(folder)


def test_external_data_is_found_wherever_a_graph_has_tensors(tmp_path):
    def tensor(name: str) -> TensorProto:
        made = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
        made.external_data.add(key="location", value=f"{name}.bin")
        made.external_data.add(key="length", value="4")
        return made

    branch = helper.make_graph([], "branch", [], [], [tensor("nested")])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor("constant")),
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(nodes, "all", [], [], [tensor("initializer")])
    graph.sparse_initializer.add(values=tensor("values"), indices=tensor("indices"))
    model = helper.make_model(graph)
    model.functions.add(name="f", domain="own", node=[helper.make_node("Constant", [], ["x"], value=tensor("inside"))])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    names = ["constant", "indices", "initializer", "inside", "nested", "values"]
    assert external_data(path) == [f"{name}.bin" for name in names]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 64, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_graph_is_refused(folder, content):
    (folder / "onnx" / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match="model.onnx"):
        backends.load(folder)


def test_other_weights_are_another_space(tiny, tmp_path):
    other = backends.load(write_folder(tmp_path / "tiny-qwen3", seed=21), threads=1)
    try:
        assert (other.model.name, other.model.digest == tiny.model.digest) == (tiny.model.name, False)
        index = ctxembed.Index(64)
        index.add(tiny.embed([["heron"]]))
        with pytest.raises(ctxembed.SpaceError, match="tiny-qwen3#"):
            index.search(other.embed_queries(["bird"]), 1)
    finally:
        ctxembed.register_model(tiny.model)


def test_an_api_models_name_needs_its_architecture(folder, tiny_folder):
    name = "pplx-embed-context-v1-0.6b"
    embedder = backends.load(tiny_folder, name=name, threads=1)
    assert embedder.model.name == name
    assert embedder.embed([["a"]], model=name).space == f"{name}#{embedder.model.digest}"
    assert ctxembed.models()[: len(API_MODELS)] == API_MODELS  # the API's keeps its price
    with pytest.raises(ValueError, match="'pplx-embed-v1-0.6b' is the name of a model"):  # which embeds no context
        backends.load(tiny_folder, name="pplx-embed-v1-0.6b")
    renamed = folder.rename(folder.with_name(name))
    change(renamed / "config.json", model_type="bert", architectures=["BertModel"])
    (renamed / "modules.json").unlink()
    with pytest.raises(
        ValueError, match=f"'{name}' is the name of a model of the API, but config.json says bert, BertModel"
    ):
        backends.load(renamed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device must be 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ({"threads": 0}, "threads must be an int of at least 1 or None, got 0"),
        ({"max_document_tokens": 8}, "max_document_tokens must be at least 64 or None, got 8"),
        ({"long_documents": "cut"}, "long_documents must be 'windows' or 'refuse', got 'cut'"),
        ({"overlap_chunks": -1}, "overlap_chunks must be at least 0, got -1"),
    ],
)
def test_options_are_checked(tiny_folder, options, message):
    with pytest.raises(ValueError, match=message):
        backends.load(tiny_folder, **options)


def test_a_gpu_that_is_not_there_is_an_error(tiny_folder):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime runs on a GPU")
    with pytest.raises(ValueError, match="device='cuda' needs onnxruntime-gpu"):
        backends.load(tiny_folder, device="cuda")


def test_another_model_is_refused(tiny):
    with pytest.raises(ValueError, match="model 'pplx-embed-context-v1-4b' is unknown: the embedder has 'tiny-qwen3'"):
        tiny.embed([["a"]], model="pplx-embed-context-v1-4b")
    with pytest.raises(ValueError, match="input_type must be None"):
        tiny.embed([["a"]], input_type="query")


def test_importing_loads_neither_onnxruntime_nor_tokenizers():
    code = (
        "import sys, ctxembed; ctxembed.backends.load\n"
        "print(sorted({'onnxruntime', 'tokenizers', 'huggingface_hub', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


# --- the hub ---

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "somebody/tiny-qwen3"


class Hub(ThreadingHTTPServer):
    """As much of the Hugging Face hub as its client needs to download a model."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = sorted(each for each in self.server.folder.rglob("*") if each.is_file())
        names = [each.relative_to(self.server.folder).as_posix() for each in files]
        for revision in ("main", "v1", COMMIT):
            if path == f"/api/models/{REPOSITORY}/revision/{revision}":
                siblings = [{"rfilename": name} for name in names]
                return self._send(json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
            if path == f"/api/models/{REPOSITORY}/tree/{revision}":
                sizes = [each.stat().st_size for each in files]
                tree = [
                    {"type": "file", "path": name, "size": size, "oid": f"{i:040x}"}
                    for i, (name, size) in enumerate(zip(names, sizes, strict=True))
                ]
                return self._send(json.dumps(tree).encode())
            start = f"/{REPOSITORY}/resolve/{revision}/"
            if path.startswith(start) and (name := path.removeprefix(start)) in names:
                if self.command == "GET":
                    self.server.fetched.append(name)
                return self._send((self.server.folder / name).read_bytes(), etag=f'"{names.index(name):040x}"')
        return self._send(b"not found", 404)

    def _send(self, body: bytes, status: int = 200, etag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        if etag:
            self.send_header("ETag", etag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tiny_folder):
    with Hub(tiny_folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def load_from(hub: Hub, home: Path, identifier: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Load a model in a process of its own, since the hub's client reads its address when it is imported."""
    code = (
        "import sys, ctxembed\n"
        "e = ctxembed.backends.load(sys.argv[1], threads=1)\n"
        "print(e.model.name, e.model.digest, e.embed([['heron', 'fish']]).vectors.tobytes().hex())\n"
    )
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **extra}
    return subprocess.run(
        [sys.executable, "-c", code, identifier], env=env, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_model_is_downloaded_once_and_then_needs_no_network(hub, tmp_path, tiny):
    expected = f"tiny-qwen3 {tiny.model.digest} {tiny.embed([['heron', 'fish']]).vectors.tobytes().hex()}"
    first = load_from(hub, tmp_path, f"{REPOSITORY}@v1")
    assert first.stdout.strip() == expected, first.stderr
    assert {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"} <= set(hub.fetched)
    assert not [name for name in hub.fetched if name.endswith(".py")]
    assert len(hub.fetched) == len(set(hub.fetched))
    hub.fetched.clear()
    again = load_from(hub, tmp_path, f"{REPOSITORY}@v1", HF_HUB_OFFLINE="1")
    assert again.stdout.strip() == expected, again.stderr
    assert hub.fetched == []


def test_a_model_that_the_hub_does_not_have_is_an_error(hub, tmp_path):
    done = load_from(hub, tmp_path, "somebody/nothing")
    assert done.returncode == 1
    assert "OSError: somebody/nothing cannot be had from the Hugging Face hub, and is no folder here" in done.stderr
