"""A synthetic land region whose soil moisture is known at every depth, with products and stations that err about it."""

from deepprofile.twin.world import DEPTH_BANDS_M, LAND_MODELS, World, simulate, step_mean

__all__ = ["DEPTH_BANDS_M", "LAND_MODELS", "World", "simulate", "step_mean"]
