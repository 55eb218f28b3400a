"""Regions and stations whose soil moisture is known at every depth, with products that err about it."""

from deepprofile.twin.profiles import ProfileWorld, from_profiles, screen
from deepprofile.twin.world import DEPTH_BANDS_M, LAND_MODELS, World, simulate, step_mean

__all__ = ["DEPTH_BANDS_M", "LAND_MODELS", "ProfileWorld", "World", "from_profiles", "screen", "simulate", "step_mean"]
