import pytest

from trt_track.export.catalogue import CATALOGUE


def test_doctor_tells_packages_backends_and_bundles(cli, tmp_path, monkeypatch, tiny_bundle):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    place = tmp_path / "bundles" / "small-128-fp32"
    place.parent.mkdir()
    place.symlink_to(tiny_bundle)
    done = cli("doctor")
    assert done.code == 0
    words = done.out.split()
    for word in ("Python", "trt-track", "torch", "onnxruntime-cpu", "tensorrt-rtx", "small-128-fp32"):
        assert word in words
    assert f"library: {tmp_path}/bundles, 1 bundles" in done.out.replace("\n", " ")
    cpu = next(line for line in done.out.splitlines() if line.startswith("onnxruntime-cpu"))
    assert cpu.split()[1] == "yes"


def test_models_list_names_every_model(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    done = cli("models", "list")
    assert done.code == 0
    for name, model in CATALOGUE.items():
        row = next(line for line in done.out.splitlines() if line.split()[:1] == [name])
        assert row.split()[-1] == "no"
        assert str(model.sha256) in row


def test_models_list_names_every_detector(cli, tiny_detector, tmp_path, monkeypatch):
    from trt_track.cli.detector_choice import OFFICIAL_DETECTORS
    from trt_track.engines.library import detector_folder
    from trt_track.export.grounding_dino import HUB_MODELS

    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    assert set(OFFICIAL_DETECTORS) == set(HUB_MODELS)
    for name, frame_hw in (("grounding-dino-tiny", (544, 960)), ("grounding-dino-tiny", (800, 1333)), ("small", (96, 130))):
        place = detector_folder(name, frame_hw, "fp32")
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(tiny_detector)
    rows = {line.split()[0]: line.rstrip() for line in cli("models", "list").out.splitlines() if line}
    assert rows["grounding-dino-tiny"].split()[1:3] == ["172", "M"]
    assert rows["grounding-dino-tiny"].endswith("800x1333 fp32, 544x960 fp32")
    assert rows["grounding-dino-base"].endswith("no: trt-track export-detector grounding-dino-base")
    assert rows["small"].endswith("96x130 fp32")


def test_official_detectors_have_as_many_weights_as_the_list_says():
    import torch
    from transformers import GroundingDinoForObjectDetection

    from trt_track.cli.detector_choice import OFFICIAL_DETECTORS
    from trt_track.export.grounding_dino import official_config

    for name, weights in OFFICIAL_DETECTORS.items():
        with torch.device("meta"):
            model = GroundingDinoForObjectDetection(official_config(name))
        assert sum(weight.numel() for weight in model.parameters()) == weights


def test_models_list_shows_the_embedded_model(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    row = next(line.split() for line in cli("models", "list").out.splitlines() if line.startswith("pico"))
    assert row[1:3] == ["6", "M"]
    assert row[-1] == "embedded"


def test_the_embedded_model_has_as_many_weights_as_the_list_says():
    from trt_track.cli.models_command import PICO_PARAMETERS
    from trt_track.export.upstream import build_model
    from trt_track.models import PICO_CONFIG

    assert sum(weight.numel() for weight in build_model(PICO_CONFIG).parameters()) == PICO_PARAMETERS


@pytest.mark.filterwarnings("ignore")  # transformers' own
def test_the_embedded_detector_has_as_many_weights_as_the_list_says(cli, tmp_path, monkeypatch):
    from transformers import GroundingDinoForObjectDetection

    from trt_track.cli.models_command import DETECTOR_PARAMETERS
    from trt_track.models import GROUNDING_DINO_PICO

    model = GroundingDinoForObjectDetection.from_pretrained(GROUNDING_DINO_PICO)
    assert sum(weight.numel() for weight in model.parameters()) == DETECTOR_PARAMETERS
    monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path))
    row = next(line.split() for line in cli("models", "list").out.splitlines() if line.startswith("grounding-dino-pico"))
    assert row[1:3] == ["4", "M"]


def test_models_pull_of_the_embedded_model_says_that_it_is_there(cli):
    assert cli("models", "pull", "pico").error == ("pico comes with the package, there is nothing to pull: use it with --model pico")


def test_models_pull_of_an_unknown_model_suggests_one(cli):
    assert cli("models", "pull", "sam2.1_hiera_tny").error == (
        "no model is called 'sam2.1_hiera_tny': did you mean sam2.1-hiera-tiny or sam2-hiera-tiny?"
    )


def test_version_and_no_arguments(cli):
    assert cli("--version").out.strip() == "0.1.0"
    assert "run" in cli("--help").out


class TestExport:
    @pytest.fixture
    def refused(self, cli, tmp_path):
        def run(*arguments):
            done = cli("export", *arguments, "--out", tmp_path / "bundle")
            assert not (tmp_path / "bundle").exists()
            assert done.out == ""
            return done.error

        return run

    @pytest.fixture
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRT_TRACK_CACHE", str(tmp_path / "cache"))

    def test_unknown_model(self, refused):
        assert refused("sam2.1-hiera-tinny", "--random-weights", 0).startswith(
            "no model is called 'sam2.1-hiera-tinny': did you mean sam2.1-hiera-tiny"
        )
        assert refused("yolo", "--random-weights", 0).startswith("no model is called 'yolo': the models are sam2.1-hiera-tiny, ")

    def test_both_weights(self, refused, tmp_path):
        message = refused("sam2.1-hiera-tiny", "--random-weights", 0, "--checkpoint", tmp_path / "x.pt")
        assert message == "give either --checkpoint or --random-weights, not both"

    @pytest.mark.usefixtures("cache")
    def test_no_weights(self, refused, small_config):
        assert refused("sam2.1-hiera-tiny").startswith("no weights of sam2.1-hiera-tiny in the cache: run trt-track models pull")
        assert refused("small", "--config", small_config) == "no weights for small: give --checkpoint FILE"

    def test_the_embedded_model_has_its_own_configuration_and_weights(self, cli, tmp_path, monkeypatch):
        from trt_track import models
        from trt_track.engines.bundle import Bundle
        from trt_track.export import local_models

        monkeypatch.setattr(local_models, "PICO_WEIGHTS", tmp_path / "none.safetensors")
        assert cli("export", "pico", "--out", tmp_path / "bundle").error.startswith(f"cannot read checkpoint {tmp_path}/none.safetensors")
        assert not (tmp_path / "bundle").exists()
        assert Bundle.open(models.PICO_BUNDLE).model.name == "pico"

    def test_checkpoint_of_another_model(self, refused, small_config, tmp_path):
        from trt_track.export.checkpoint import build_model, save_checkpoint

        path = tmp_path / "small.pt"
        save_checkpoint(build_model(small_config), path)
        message = refused("sam2.1-hiera-tiny", "--checkpoint", path)
        assert message.startswith(f"{path} does not fit the model: ")
        assert len(message) < 1000

    @pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x02}q\x00."])
    def test_file_that_is_no_checkpoint(self, refused, tmp_path, small_config, content):
        path = tmp_path / "weights.pt"
        path.write_bytes(content)
        assert refused("small", "--config", small_config, "--checkpoint", path).startswith(str(path))

    def test_missing_checkpoint(self, refused, tmp_path, small_config):
        path = tmp_path / "no.pt"
        assert (
            refused("small", "--config", small_config, "--checkpoint", path) == f"cannot read checkpoint {path}: No such file or directory"
        )

    def test_bad_precision_and_size(self, refused, small_config):
        weights = ("--random-weights", 0)
        assert refused("small", "--config", small_config, *weights, "--precision", "int4").startswith("precision 'int4' is unknown")
        assert refused("small", "--config", small_config, *weights, "--size", 100).startswith("image size 100 is not possible")

    def test_bad_configuration(self, refused, tmp_path):
        path = tmp_path / "model.yaml"
        path.write_text("model: {_target_: os.system, command: ls}")
        assert "only network classes of the `sam2` package are built" in refused("small", "--config", path, "--random-weights", 0)

    def test_bundle_that_exists(self, cli, tiny_bundle, small_config):
        before = {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")}
        done = cli("export", "small", "--config", small_config, "--random-weights", 0, "--out", tiny_bundle)
        assert done.error == f"{tiny_bundle} holds a bundle already: pass --overwrite to replace it with its engines"
        assert {path: path.stat().st_mtime_ns for path in tiny_bundle.rglob("*")} == before

    def test_folder_that_is_no_bundle(self, cli, small_config, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        done = cli("export", "small", "--config", small_config, "--random-weights", 0, "--out", tmp_path, "--overwrite")
        assert done.error == f"{tmp_path} exists and is no bundle: choose another folder"


class TestInspect:
    def test_it_tells_what_the_graphs_are_made_of(self, cli, tiny_bundle):
        done = cli("inspect", tiny_bundle)
        assert done.code == 0
        assert "image_encoder" in done.out
        assert "no problems" in done.out

    def test_it_lists_one_graph_node_by_node(self, cli, tiny_bundle):
        assert "Node 0" in cli("inspect", tiny_bundle, "--graph", "mask_prompt").out
        assert cli("inspect", tiny_bundle, "--graph", "nothing").error.startswith(f"{tiny_bundle} has no graph 'nothing'")
