"""Made-up clips with known masks: textured shapes that move, turn, deform, hide each other and leave, over a moving photograph.

They train the embedded model, are its demonstration, and give the tests of tracking an exact truth. Everything follows from a seed.
"""

from trt_track.scenes.outline import Outline, random_outline
from trt_track.scenes.scene import Material, Scene, SceneFrame, SceneStyle, random_scene
from trt_track.scenes.texture import random_texture

__all__ = ["Material", "Outline", "Scene", "SceneFrame", "SceneStyle", "random_outline", "random_scene", "random_texture"]
