"""The words for everything in the drawn world: what captions are made of, and all that the text encoder can read.

A phrase that stands twice is chosen twice as often.
"""


def _split(phrases: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in phrases.split(";"))


def _phrases(**lists: str) -> dict[str, tuple[str, ...]]:
    return {name: _split(phrases) for name, phrases in lists.items()}


SUBJECT_WORDS = _phrases(
    utopia="""
        high tech solarpunk utopia; solarpunk utopia; solarpunk city; green city of the future; utopia; futuristic eco
        city; high tech city; utopian city; solarpunk towers; skyscrapers with gardens; future city; high-tech utopia;
        city with green roofs; ecotopia; futuristic skyscrapers; metropolis
    """,
    pikachu="""
        pikachu; pikachu; pokemon; pokémon; electric mouse; pika; pikachu pokemon; pokemon pikachu; mouse with a
        lightning tail
    """,
    robot="""
        mecha robot; mecha; robot; android; mech; battle robot; metal robot; droid; transformer robot; gundam; cyborg;
        automaton; war robot; steel robot; humanoid robot
    """,
    insect="""
        insect robot; insect; robot insect; beetle; bug; robotic bug; mechanical insect; robot beetle; ladybug;
        mechanical beetle; insectoid robot; robot bug; cyber insect; ant robot; bee; spider; butterfly
    """,
    cabin="""
        small cabin; cabin; hut; wooden cabin; log cabin; chalet; lodge; wooden hut; shack; wood cabin; cabin in the
        woods; mountain hut; small wooden cabin; barn; small hut
    """,
    rider="""
        astronaut riding a horse; astronaut riding a horse; astronaut on a horse; spaceman riding a horse; astronaut
        on horseback; cosmonaut on a horse; horse with an astronaut; spaceman on horseback; horse ridden by an
        astronaut; space rider on a horse; astronaut; cosmonaut riding a horse; astronaut who rides a horse; horseman
        in a space suit; spaceman; man in a space suit riding a horse
    """,
    cat="""
        cat; kitten; kitty; house cat; pussycat; cute cat; sitting cat; tomcat; feline; pet cat; tiger; lion; fluffy
        cat
    """,
    emblem="""
        skull warning sign; skull sign; warning sign with a skull; skull emblem; yellow triangle with a black skull;
        danger sign with a skull; poison warning sign; skull hazard sign; triangle sign with a skull; skull; danger
        sign; warning sign; poison sign; hazard sign; death sign; toxic sign
    """,
    dog="""
        dog; dog; puppy; doggy; hound; labrador; terrier; pet dog; cute dog; poodle; wolf; fox; good dog; beagle
    """,
    horse="horse; horse; pony; stallion; mare; foal; wild horse; unicorn; donkey; galloping horse; zebra; cow",
    bird="bird; bird; parrot; eagle; owl; duck; chicken; sparrow; robin; songbird; pigeon; crow; penguin; chick",
    fish="""
        fish; fish; goldfish; clownfish; shark; tropical fish; dolphin; whale; striped fish; carp; salmon; nemo
    """,
    dragon="""
        dragon; dragon; fire-breathing dragon; winged dragon; dinosaur; wyvern; fire dragon; monster; dragon breathing
        fire; t-rex; lizard; fantasy dragon
    """,
    woman="""
        woman; woman; girl; lady; princess; person; queen; young woman; woman in a dress; witch; mother; dancer;
        beautiful woman; female; ballerina
    """,
    man="""
        man; man; boy; guy; prince; king; young man; gentleman; father; waving man; hero; human; male; wizard; soldier
    """,
    car="""
        car; car; automobile; sports car; race car; taxi; vehicle; racing car; sedan; old car; truck; van; ferrari;
        convertible
    """,
    house="""
        house; house; home; villa; mansion; building; family house; brick house; farmhouse; bungalow; town house;
        country house; cottage; haunted house
    """,
    castle="""
        castle; castle; fortress; palace; fairy tale castle; medieval castle; citadel; stone castle; fairytale castle;
        knight castle; royal palace; fort
    """,
    boat="""
        boat; boat; ship; sailboat; sailing boat; yacht; sailing ship; pirate ship; vessel; sail boat; fishing boat;
        dinghy
    """,
    tree="""
        tree; tree; oak; oak tree; apple tree; maple; fruit tree; leafy tree; maple tree; old tree; bonsai; cherry
        tree
    """,
    flower="""
        flower; flower; rose; tulip; daisy; blossom; sunflower; poppy; lily; pretty flower; blooming flower; bloom
    """,
)
PLURALS = _phrases(
    utopia="solarpunk cities; utopias; futuristic cities; high tech cities",
    pikachu="pikachus; pikachu; pokemon; electric mice",
    robot="robots; mechas; mecha robots; androids; battle robots; droids",
    insect="insects; insect robots; beetles; bugs; robot insects; bees",
    cabin="cabins; huts; log cabins; wooden cabins; chalets",
    rider="astronauts riding horses; astronauts on horses; astronauts; astronauts on horseback",
    cat="cats; kittens; kitties; cute cats; tigers",
    dog="dogs; puppies; hounds; cute dogs; wolves; foxes",
    horse="horses; ponies; wild horses; stallions; unicorns",
    bird="birds; parrots; owls; ducks; songbirds; chickens; penguins",
    fish="fish; fishes; goldfish; sharks; tropical fish; dolphins",
    dragon="dragons; winged dragons; dinosaurs; monsters",
    woman="women; girls; ladies; princesses; people",
    man="men; boys; guys; kings; gentlemen",
    car="cars; sports cars; vehicles; race cars; trucks; taxis",
    house="houses; homes; buildings; villas; cottages",
    castle="castles; palaces; fortresses; medieval castles",
    boat="boats; ships; sailboats; sailing ships; yachts",
    tree="trees; oaks; apple trees; fruit trees",
    flower="flowers; roses; tulips; blossoms; sunflowers; daisies",
)
PLACE_WORDS = _phrases(
    rainforest="""
        in the Amazon rainforest; in the rainforest; in the jungle; in the forest; in a green jungle; in the woods;
        among the trees of the jungle; in a tropical forest; in the Amazon; in a rainforest
    """,
    paris="""
        fine dining with a view to the Eiffel Tower; with a view to the Eiffel Tower; in Paris; in a restaurant in
        Paris; in front of the Eiffel Tower; near the Eiffel Tower; at a restaurant with a view of the Eiffel Tower;
        dining in Paris; having dinner in Paris; fine dining; having dinner by the Eiffel Tower; fine dining in
        France; in a fancy restaurant
    """,
    favela="""
        in a favela; in the favela; in a slum; in front of colorful houses; in a favela in Rio; in Rio de Janeiro;
        among colourful houses; in a colorful town; in a shanty town; in Brazil
    """,
    kitchen="""
        preparing a delicious meal; in a kitchen; cooking; cooking a meal; preparing a meal; in the kitchen; preparing
        dinner; cooking dinner; cooking a delicious meal; making food; preparing delicious food; as a chef; preparing
        a tasty meal; making a delicious dinner; cooking lunch in a kitchen
    """,
    mountain="""
        on top of a snowy mountain; in the snow; on a snowy mountain; in the mountains; on a mountain; in winter; on a
        snowy hill; in the alps; on top of a mountain; on a snowy peak; in a snowy landscape; on a mountain top
    """,
    mars="""
        on mars; on Mars; on the red planet; on a red planet; on the surface of mars; on planet mars; in a red desert;
        in the desert; on another planet; in a martian desert
    """,
    beach="""
        on a beach; at the beach; by the sea; on the beach; at the seaside; near the ocean; on a tropical beach; on
        the sand by the sea; on an island; under a palm tree; at the coast; by the ocean
    """,
    meadow="""
        in a meadow; in a field; on the grass; in the park; in a garden; in the countryside; on a farm; in a green
        field; in the meadow; on a green hill; on a lawn; in the garden; in a park; in the grass
    """,
    city="""
        in the city; in a city; on the street; in New York; in a big city; downtown; in Tokyo; in London; in front of
        skyscrapers; on a road; in the streets; in town; in a modern city; on a street; on the road
    """,
    space="""
        in space; in outer space; on the moon; among the stars; in the galaxy; in the universe; floating in space; in
        front of a planet; on an asteroid; in the cosmos; on the surface of the moon
    """,
    underwater="""
        underwater; under the sea; under water; at the bottom of the ocean; in the ocean; in the sea; in an aquarium;
        beneath the waves; on the seabed; in the deep sea; on a coral reef; at the bottom of the sea
    """,
)
TIME_WORDS = _phrases(
    day="by day; during the day; in daylight; on a sunny day; in the morning; at noon; in bright daylight",
    sunset="at sunset; at dusk; at sundown; in the evening; at golden hour; at dawn; in the evening light",
    night="at night; by night; under the moon; in the moonlight; at midnight; in the dark; during the night",
)
COLOUR_WORDS = _phrases(
    red="red; crimson; scarlet",
    blue="blue; navy; azure",
    green="green; emerald",
    yellow="yellow; golden",
    white="white; snow-white",
    black="black; dark",
    purple="purple; violet",
    orange="orange",
)
# In front of the subject, and after everything.
STYLES_BEFORE = _phrases(
    photo="a photograph of; a photo of; photo of; a realistic picture of; a picture of",
    storybook="a cartoon of; a storybook picture of; an illustration of; a Disney cartoon of; a drawing of",
    expressionist="an expressionist painting of; an oil painting of; a painting of; an expressionist picture of",
)
STYLES_AFTER = _phrases(
    photo="realistic; photorealistic; photo; photography; dslr photo",
    storybook="""
        in the style of Disney; in the style of Disney, artstation; artstation; in cartoon style; storybook style; as
        a cartoon; children's book illustration; in the style of pixar; disney style; in storybook style
    """,
    expressionist="""
        in expressionist style; expressionist; in the style of van gogh; expressionism; as an expressionist painting;
        oil painting; in the style of munch; expressionistic
    """,
)
COUNT_WORDS = _phrases(
    one="one; a single; just one; exactly one",
    two="two; two; 2; a pair of; a couple of",
    three="three; three; 3; a trio of; a group of three",
)
SIZE_WORDS = _phrases(
    small="tiny; small; little; miniature; very small",
    big="big; huge; giant; large; enormous; gigantic",
)
# The card says "a small cabin", which is a cabin of the usual size.
SMALL_CABIN = _split("tiny; miniature; very small")
BESIDE = _split("beside; next to; and; with; near; to the left of; left of; together with; standing next to")
RIGHT_OF = _split("to the right of; right of; on the right of")
SUFFIXES = _split("""
    highly detailed; 4k; 8k; trending; masterpiece; beautiful; best quality; award winning; intricate; sharp focus;
    cinematic; concept art; digital art; wallpaper; hd; amazing; cute; ultra detailed
""")
# Words that mean nothing here, so that the text encoder learns to pass over what it does not know.
NOTHING = _split("""
    very; some; really; the; my; happy; sad; old; new; funny; strange; nice; friend; music; love; dream; time; hope;
    winner; tomorrow; because; today; idea; story; please; show; me; make; think; table; clock; paper; phone;
    computer; science; market; window; letter; bread; cheese; coffee; water; fast; slow; hidden; secret; ancient;
    modern; sleepy; angry; brave; gentle; quiet; loud; epic; magic; mystery
""")
