"""Objects that come and go as they like: what the loop asks for on every frame, and what lies on the pages that it names."""

from collections import Counter

from fake_session import MODEL, FakeSession
from histories import FRAMES, OBJECTS, blank_clip, histories, memories_of, pointers_of, prompt
from hypothesis import given, settings

from trt_track.runtime.tracker import Tracker, Video
from trt_track.specs import Limits

GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder", "mask_upscale")


class BookSession(FakeSession):
    """Knows whose memory of which frame lies on every page and in every pointer's place, and compares what is attended to with that."""

    def __post_init__(self):
        super().__post_init__()
        self.frame, self.pages, self.pointers, self.owners = 0, {}, {}, []
        self.starts, self.starting, self.attending = {}, [], Counter()

    def begin(self, frame, events):
        """Begin a frame, on which objects start in this order."""
        self.frame, self.starting = frame, [object_id for kind, object_id in events if kind == "start"]
        self.starts |= dict.fromkeys(self.starting, frame)
        self.attending.clear()

    def run(self, graph, inputs, outputs):
        super().run(graph, inputs, outputs)
        if graph == "memory_attention":
            self.owners = [self.pages[row[0]][0] for row in inputs["page"].tolist()]
            self.attending.update(self.owners)
            for row, owner in enumerate(self.owners):
                named = ((self.pages, "page", "age"), (self.pointers, "pointer", "pointer_age"))
                found = [
                    [(*lies[p], a) for p, a in zip(inputs[i][row].tolist(), inputs[j][row].tolist(), strict=True)] for lies, i, j in named
                ]
                assert found == [memories_of(owner, self.starts[owner], self.frame), pointers_of(owner, self.starts[owner], self.frame)]

    def scatter(self, target, rows, source):
        super().scatter(target, rows, source)
        if target.ndim == 2:  # pointers come last
            self.pointers |= {row: (owner, self.frame) for row, owner in zip(rows.tolist(), self.owners, strict=True)}
            self.owners = []
        else:
            self.owners = self.owners or [self.starting.pop(0)]
            self.pages |= {row: (owner, self.frame) for row, owner in zip(rows.tolist(), self.owners, strict=True)}


@settings(deadline=None, max_examples=12)
@given(events=histories())
def test_every_batch_attends_to_what_its_objects_remember(events):
    session = BookSession(max_batch=OBJECTS)
    with Tracker(session, MODEL, max_objects=OBJECTS) as tracker:
        video = Video(tracker, blank_clip(MODEL.image_size))
        prompt(video, events)
        running, tracked, allocated = video.propagate(), set(), None
        for frame in range(FRAMES):
            told = events.get(frame, [])
            removed, prompted = ({one for kind, one in told if (kind == "remove") == gone} for gone in (True, False))
            corrected = prompted & tracked
            followed = tracked - removed - prompted
            session.calls.clear()
            session.begin(frame, sorted(told, key=lambda one: one[0] != "remove"))
            result = next(running)
            tracked = (tracked - removed) | prompted
            assert set(result.object_ids) == tracked
            assert session.attending == Counter(followed | corrected)
            sizes = Counter(
                (len(memories_of(1, start, frame)), len(pointers_of(1, start, frame))) for start in map(session.starts.get, followed)
            )
            attended = [(call.sizes["N"], call.sizes["P"], call.sizes["B"]) for call in session.calls if call.graph == "memory_attention"]
            batches = [(*key, count) for key, count in sizes.items()]
            assert sorted(attended[: len(batches)]) == sorted(
                batches
            )  # objects with equally many memories together; the corrected ones then
            assert [size for *_, size in attended[len(batches) :]] == [1] * len(corrected)
            calls = Counter(call.graph for call in session.calls)
            assert calls["image_encoder"] == bool(tracked)
            if not prompted:
                assert calls == Counter({graph: len(batches) for graph in GRAPHS if batches} | {"image_encoder": 1} if batches else {})
            allocated = allocated or session.allocations
            assert session.allocations == allocated
    assert len(session.pages) <= Limits(objects=OBJECTS).pages
