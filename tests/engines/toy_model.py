"""A model of six tiny ONNX graphs with the whole contract: every output depends on every input, on where it lies and how old it is."""

import numpy as np
from onnx import checker, numpy_helper, parser, save

from trt_track.engines.bundle import Bundle
from trt_track.engines.engine_record import EngineFolder, EngineRecord
from trt_track.engines.file_record import FileRecord
from trt_track.engines.manifest import Description
from trt_track.engines.profiles import graph_profile
from trt_track.recipe import Recipe
from trt_track.specs import ModelSpec, graph_specs

MODEL = ModelSpec("toy", 64, embed_channels=16, memory_channels=8)

NODES = {
    "image_encoder": """
        pixels = Cast<to=1>(frames)
        image = Transpose<perm=[0,3,1,2]>(pixels)
        coarse = AveragePool<kernel_shape=[16,16], strides=[16,16]>(image)
        seen = Conv(coarse, w_seen)
        wave = Sin(seen)
        embed = Cast<to=REAL>(wave)
        turned = Cos(seen)
        embed_no_memory = Cast<to=REAL>(turned)
        fine = AveragePool<kernel_shape=[4,4], strides=[4,4]>(image)
        edges = Conv(fine, w_fine)
        sharp = Sin(edges)
        high_res_0 = Cast<to=REAL>(sharp)
        middle = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)
        forms = Conv(middle, w_middle)
        clear = Sin(forms)
        high_res_1 = Cast<to=REAL>(clear)
    """,
    "memory_attention": """
        pages_read = Gather<axis=0>(bank, page)
        memories = Cast<to=1>(pages_read)
        years = Cast<to=1>(age)
        older = Add(years, two)
        weights = Reciprocal(older)
        wide = Unsqueeze(weights, axes_234)
        weighted = Mul(memories, wide)
        remembered = ReduceSum<keepdims=0>(weighted, axis_1)
        recalled = Conv(remembered, w_recall)
        pointers_read = Gather<axis=0>(pointer_bank, pointer)
        distance = Cast<to=1>(pointer_age)
        span = Cast<to=1>(pointer_span)
        far = Div(distance, span)
        near = Cos(far)
        tall = Unsqueeze(near, axis_2)
        pointed = Mul(pointers_read, tall)
        told = ReduceMean<keepdims=0>(pointed, axis_1)
        hint = Unsqueeze(told, axes_23)
        now = Cast<to=1>(embed)
        both = Add(now, recalled)
        all = Add(both, hint)
        bent = Sin(all)
        conditioned = Cast<to=REAL>(bent)
    """,
    "mask_decoder": """
        features = Cast<to=1>(conditioned)
        rough = Conv(features, w_mask)
        large = Resize<mode="nearest">(rough, none, scales_4)
        fine = Cast<to=1>(high_res_0)
        fine_mean = ReduceMean(fine, axis_1)
        middle = Cast<to=1>(high_res_1)
        middle_large = Resize<mode="nearest">(middle, none, scales_2)
        middle_mean = ReduceMean(middle_large, axis_1)
        kinds = Cast<to=1>(labels)
        marks = Add(kinds, two)
        columns = Unsqueeze(marks, axis_2)
        placed = Mul(points, columns)
        clicked = ReduceMean<keepdims=0>(placed, axes_12)
        click = Mul(clicked, small)
        click_4d = Unsqueeze(click, axes_123)
        asked = Cast<to=1>(has_mask)
        asked_4d = Unsqueeze(asked, axes_123)
        given = Mul(mask_prompt, asked_4d)
        nudge = Mul(given, small)
        best = Cast<to=1>(multimask)
        best_4d = Unsqueeze(best, axes_123)
        liking = Mul(best_4d, small)
        s1 = Add(large, fine_mean)
        s2 = Add(s1, middle_mean)
        s3 = Add(s2, click_4d)
        s4 = Add(s3, nudge)
        s5 = Add(s4, liking)
        swing = Sin(s5)
        mask_logits = Mul(swing, eight)
        level = ReduceMean<keepdims=0>(mask_logits, axes_123)
        iou = Sigmoid(level)
        object_score = Mul(level, eight)
        about = ReduceMean<keepdims=0>(features, axes_23)
        level_2d = Unsqueeze(level, axis_1)
        marked = Add(about, level_2d)
        pointer = Sin(marked)
        chosen = Cast<to=6>(multimask)
    """,
    "memory_encoder": """
        now = Cast<to=1>(embed)
        scene = Conv(now, w_memory)
        small_mask = AveragePool<kernel_shape=[4,4], strides=[4,4]>(mask_logits)
        score_4d = Unsqueeze(object_score, axes_123)
        score = Mul(score_4d, small)
        prompted = Cast<to=1>(from_prompt)
        prompted_4d = Unsqueeze(prompted, axes_123)
        m1 = Add(scene, small_mask)
        m2 = Add(m1, score)
        m3 = Add(m2, prompted_4d)
        kept = Sin(m3)
        memory = Cast<to=REAL>(kept)
    """,
    "mask_prompt": """
        drawn = Cast<to=1>(mask)
        drawn_4d = Unsqueeze(drawn, axis_1)
        part = AveragePool<kernel_shape=[4,4], strides=[4,4]>(drawn_4d)
        doubled = Mul(part, eight)
        mask_logits = Sub(doubled, two)
        mask_prompt = Mul(mask_logits, two)
        object_score = ReduceMean<keepdims=0>(mask_logits, axes_123)
    """,
    "mask_upscale": """
        filled_logits = Add(mask_logits, small)
        prompt_logits = Mul(mask_logits, two)
        shape = Shape<start=0, end=2>(mask_logits)
        size = Concat<axis=0>(shape, video_height, video_width)
        resized = Resize<mode="linear", coordinate_transformation_mode="half_pixel">(filled_logits, none, none, size)
        flat = Squeeze(resized, axis_1)
        inside = Greater(flat, zero)
        mask = Cast<to=2>(inside)
    """,
}
AXES = {"axis_1": [1], "axis_2": [2], "axes_12": [1, 2], "axes_23": [2, 3], "axes_123": [1, 2, 3], "axes_234": [2, 3, 4]}
SCALARS = {"zero": 0.0, "small": 0.05, "two": 2.0, "eight": 8.0}
SCALES = {"scales_2": [1, 1, 2, 2], "scales_4": [1, 1, 4, 4]}
WEIGHTS = {"w_seen": (16, 3), "w_fine": (2, 3), "w_middle": (4, 3), "w_recall": (16, 8), "w_mask": (1, 16), "w_memory": (8, 16)}
TYPES = {
    "float32": "float",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "bool": "bool",
}


def constants():
    """Return every constant by name; the weights of what reads pixels are small, since those go up to 255."""
    random = np.random.default_rng(5)
    scale = {"w_seen": 0.01, "w_fine": 0.01, "w_middle": 0.01}
    weights = {name: random.normal(0, scale.get(name, 0.7), (*shape, 1, 1)).astype(np.float32) for name, shape in WEIGHTS.items()}
    plain = {name: np.float32(value) for name, value in (SCALARS | SCALES).items()}
    return weights | plain | {name: np.int64(value) for name, value in AXES.items()}


def graph_model(spec, precision):
    """Return one graph as an ONNX model."""
    inputs, outputs = (
        ", ".join(f"{TYPES[t.dtype]}[{', '.join(map(str, t.shape))}] {t.name}" for t in side) for side in (spec.inputs, spec.outputs)
    )
    nodes = NODES[spec.name].replace("REAL", {"fp32": "1", "fp16": "10", "bf16": "16"}[precision]).replace("none", '""')
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {spec.name} ({inputs}) => ({outputs}) {{ {nodes} }}')
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants().items() if name in read)
    checker.check_model(model, full_check=True)
    return model


def write_bundle(folder, precision):
    """Write the model as a bundle."""
    description = Description(MODEL, precision, {}, opset=20, source="toy", source_sha256=None, tools={})
    with Bundle.create(folder, description) as draft:
        for spec in graph_specs(MODEL, Recipe.read(precision).memory).values():
            save(graph_model(spec, precision), str(draft.onnx_path(spec.name)))
            draft.add(spec)
    return Bundle.open(folder)


def write_engines(bundle, limits, *, flavour="tensorrt-rtx", version="1.2.3", target="sm89"):
    """Record an engine of every graph, whose plan is what `FakeTensorRT` takes; return their profiles."""
    folder = EngineFolder.at(bundle, flavour, version, target)
    folder.folder.mkdir(parents=True, exist_ok=True)
    profiles = {name: graph_profile(spec, bundle.model, limits) for name, spec in bundle.specs.items()}
    for name, profile in profiles.items():
        path = folder.folder / f"{name}.engine"
        path.write_bytes(f"plan of {name}".encode())
        engine = FileRecord.of(folder.folder, path)
        folder = folder.with_record(EngineRecord(name, engine, bundle.record(name).onnx.sha256, profile, limits, 0.1, f"{name}.log"))
    return profiles
