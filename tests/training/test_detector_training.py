"""The text detector's training: prompts whose truth is right, losses that know a perfect answer, a score that knows good from bad."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detector_examples import Picture, PictureDataset, PictureRecipe, collate, make_picture, phrase_of_tokens, picture_style
from detector_loss import BoxTruth, box_overlap, detection_loss, match
from evaluate_detector import Scores, held_out_pictures, one_name_each
from small_grounding_dino import WORDS, new_model, predictions, word_tokenizer
from tokenizers import Tokenizer

from trt_track.runtime.detections import Detection
from trt_track.scenes.named import Name

RED, BLUE = Name("red", "plain", "circle"), Name("blue", "striped", "circle")
BOXES = np.array([[10, 20, 40, 60], [50, 10, 90, 30]], np.float32)


def picture(*phrases: str) -> Picture:
    return Picture(np.zeros((64, 96, 3), np.uint8), BOXES, (RED, BLUE), phrases)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_str(word_tokenizer().decode())


class TestExamples:
    def test_a_batch_is_the_same_whenever_it_is_made(self):
        recipe = PictureRecipe(word_tokenizer(), (64, 96), 2, 5, 0)
        once, again, other = (PictureDataset(recipe, first, 3)[index] for first, index in ((0, 1), (1, 0), (1, 1)))
        assert torch.equal(once.pixels, again.pixels)
        assert torch.equal(once.token, again.token)
        assert not torch.equal(once.pixels, other.pixels)

    def test_every_token_knows_its_phrase(self, tokenizer):
        shown = picture("red circle", "thing", "blue striped circle")
        encoded = tokenizer.encode(shown.prompt)
        assert phrase_of_tokens(shown, encoded) == [-1, 0, 0, -1, 1, -1, 2, 2, 2, -1, -1]

    def test_the_truth_is_what_the_prompt_names(self, tokenizer):
        batch = collate([picture("red circle", "green star"), picture("circle", "blue thing", "red star")], tokenizer)
        first, second = batch.truth
        assert first.words.nonzero().tolist() == [[0, 1], [0, 2]]
        assert torch.allclose(first.boxes, torch.tensor([[25 / 96, 40 / 64, 30 / 96, 40 / 64]]))
        assert [row.nonzero().flatten().tolist() for row in second.words] == [[1], [1, 3, 4]]
        assert batch.mask.sum(dim=1).tolist() == [8, 10]

    def test_nothing_named_is_no_box(self, tokenizer):
        (truth,) = collate([picture("green star")], tokenizer).truth
        assert truth.boxes.shape == (0, 4)

    def test_prompts_name_what_is_there_and_what_is_not(self):
        pictures = [make_picture((1, number), "train", picture_style((64, 96))) for number in range(40)]
        true = [[any(name.is_called(phrase) for name in one.names) for phrase in one.phrases] for one in pictures]
        assert all(one.phrases for one in pictures)
        assert 0.5 < np.mean([any(row) for row in true]) <= 1
        assert any(not all(row) for row in true)
        assert {word for one in pictures for phrase in one.phrases for word in phrase.split()} <= set(WORDS)


class TestLosses:
    TRUTH = BoxTruth(torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.3, 0.1, 0.2]]), torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0]]))

    def answer(self, *, sure: float = 12.0):
        """Three queries, the last two of which are the objects in the other order."""
        logits = torch.full((1, 3, 4), -sure)
        logits[0, 1, 2] = logits[0, 2, 1] = sure
        boxes = torch.stack([torch.tensor([0.9, 0.9, 0.1, 0.1]), self.TRUTH.boxes[1], self.TRUTH.boxes[0]])[None]
        return logits, boxes

    def test_objects_are_matched_one_to_one(self):
        logits, boxes = self.answer()
        rows, columns = match(logits[0], boxes[0], self.TRUTH, torch.ones(4, dtype=torch.bool))
        assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == {1: 1, 2: 0}

    def test_the_perfect_answer_costs_nothing_and_others_cost(self):
        mask = torch.ones(1, 4, dtype=torch.bool)
        perfect = detection_loss([self.answer()], mask, [self.TRUTH])
        assert perfect["total"] < 1e-3
        assert perfect["iou"] == pytest.approx(1)
        logits, boxes = self.answer()
        assert detection_loss([(-logits, boxes)], mask, [self.TRUTH])["words"] > 1
        moved = detection_loss([(logits, boxes + 0.05)], mask, [self.TRUTH])
        assert moved["place"] > 0.5
        assert moved["overlap"] > 0.5

    def test_padding_is_no_word(self):
        logits, boxes = self.answer()
        logits[0, 0, 3] = 50.0
        mask = torch.tensor([[True, True, True, False]])
        assert detection_loss([(logits, boxes)], mask, [self.TRUTH])["total"] < 1e-3

    def test_a_picture_without_objects_teaches_that_nothing_is_there(self):
        nothing = BoxTruth(torch.zeros(0, 4), torch.zeros(0, 4))
        loss = detection_loss([self.answer()], torch.ones(1, 4, dtype=torch.bool), [nothing])
        assert loss["words"] > 1
        assert loss["place"] == 0

    def test_overlap_of_known_boxes(self):
        one = torch.tensor([0.25, 0.5, 0.5, 1.0])
        iou, generalised = box_overlap(one, torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 1.0], [0.875, 0.5, 0.25, 1.0]]))
        assert iou.tolist() == pytest.approx([1, 1 / 3, 0])
        assert generalised.tolist() == pytest.approx([1, 1 / 3, -0.25])


def test_every_weight_learns_but_upstream_s_spares(tokenizer):
    torch.manual_seed(0)
    model = new_model().train()
    batch = collate([make_picture((2, number), "train", picture_style((96, 160))) for number in range(2)], tokenizer)
    outputs = predictions(model, batch.pixels, batch.token, batch.mask)
    assert [logits.shape[:2] for logits, _ in outputs[1:]] == [(2, 40)] * 3
    detection_loss(outputs, batch.mask.bool(), batch.truth)["total"].backward()
    still = {name for name, weight in model.named_parameters() if weight.grad is None}
    assert {name.split(".")[1] for name in still} <= {"backbone", "text_backbone", "encoder"}
    assert len(still) < 12, still
    rerun = model(pixel_values=batch.pixels, input_ids=batch.token, attention_mask=batch.mask)
    assert torch.equal(rerun.pred_boxes, outputs[-1][1])


class TestScores:
    def found(self, *boxes, score=0.9):
        return [Detection(box, score, label, label) for box, label in boxes]

    def summary(self, found, *phrases):
        scores = Scores(0.5)
        scores.add(picture(*phrases), found)
        return scores.summary()

    def test_what_is_named_and_found(self):
        scores = self.summary(self.found((BOXES[0], "red circle")), "red circle")
        assert (scores["ap50"], scores["named_found"], scores["unnamed_things"], scores["unnamed_reported"]) == (1, 1, 1, 0)

    def test_what_is_not_named_and_reported(self):
        scores = self.summary(self.found((BOXES[0], "red circle"), (BOXES[1], "red circle")), "red circle")
        assert scores["unnamed_reported"] == 1

    def test_what_has_the_wrong_name_or_place_is_not_found(self):
        assert self.summary(self.found((BOXES[0], "blue circle")), "red circle", "blue circle")["named_found"] == 0
        assert self.summary(self.found((BOXES[0] + 25, "red circle")), "red circle")["ap50"] == 0

    def test_an_unsure_box_is_not_reported(self):
        assert self.summary(self.found((BOXES[1], "red circle"), score=0.2), "red circle")["unnamed_reported"] == 0

    def test_no_two_phrases_are_true_of_one_thing(self):
        assert one_name_each((RED, BLUE), ("circle", "red circle", "green star", "thing")) == ("circle", "green star")
        for one in held_out_pictures(10):
            assert all(sum(name.is_called(phrase) for phrase in one.phrases) <= 1 for name in one.names)
