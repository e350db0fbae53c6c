"""The embedded picture world: contents, drawings, wordings and gold, made on the spot and written to disk."""

from mcse.scenes.build import WorldConfig, build_world, read_scenes
from mcse.scenes.tweet_world import TweetWorldConfig, build_tweet_world
from mcse.scenes.world import similarity

__all__ = ["TweetWorldConfig", "WorldConfig", "build_tweet_world", "build_world", "read_scenes", "similarity"]
