"""The words that canaries are made of: 256, so that each adds eight bits that nobody can guess."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
acorn amber anchor anvil apple apron arrow aspen attic badge bagel bamboo banjo barley barrel basin basket
beacon beaver bench birch bishop blanket blossom bottle boulder bracket branch bridge brook broom bubble
bucket buckle bundle burrow butter button cabin cable cactus camel candle canoe canvas canyon carbon cargo
carpet carrot castle cedar cellar cement cheese cherry chisel cider circle clay cliff clock cloud clover coast
cobalt coffee collar comet copper coral cork cotton cradle crane crater crayon cricket crown crystal curtain
cushion daisy dancer desert diamond dinner dolphin donkey dragon drawer eagle easel echo elbow ember engine
fabric falcon farmer feather fence fern fiddle finger flame flask flute forest fossil fountain frost funnel
galaxy garden garlic gazelle geyser ginger glacier goblet granite grape gravel guitar hammer harbor harvest
hazel helmet heron hinge honey hornet icicle igloo island ivory ivy jacket jasmine jelly jersey jewel jigsaw
jungle juniper kernel kettle kitten knot ladder lagoon lantern lava leather lemon lentil lettuce lilac linen
lizard lobster locket lotus magnet mango mantle maple marble meadow melon mirror mitten monkey mortar mosaic
moss muffin mustard napkin nectar needle nettle nickel noodle nutmeg oasis ocean olive onion opal orange
orchid otter oyster paddle palace panda paper parrot pasture pebble pencil pepper pigeon pillow pine planet
plum pocket pollen pond poplar potato prism pumpkin puzzle quarry quartz quill rabbit radish raisin raven
ribbon river rocket saddle saffron salmon sapphire satin scarf shovel silver spider sponge spruce squirrel
staple stirrup sugar sunset swallow teapot thimble thunder ticket timber tomato trumpet tulip tunnel turtle
velvet
"""
WORDS: Final = tuple(_TEXT.split())
SYLLABLES: Final = ("ba", "do", "fi", "gu", "ke", "lo", "mi", "nu", "pa", "re", "si", "tu", "va", "we", "yo", "zu")
"""Of the names that canaries are about."""
