"""The Penn Treebank tokens of English text, as Stanford's lexer (CoreNLP 3.4.1) cuts them.

Caption scores are defined on the output of that Java program with its options ``-preserveLines -lowerCase``.
Here the same decisions are regular expressions: at each position every rule is tried, the longest match wins,
the earlier rule wins a tie, and what a rule has seen to the right of its token counts for the length (the
semantics of a flex lexer). The rules restate what is publicly known of that lexer's grammar, and were
corrected by comparing with the program on every short abbreviation and on random strings. The options that
caption scoring uses leave spelling alone, write fractions, dashes, dots, brackets and currency in ASCII, and
drop characters that no rule knows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

# Characters that count as letters besides those that Python calls alphabetic: combining marks.
_MARKS = (
    "\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487"
    "\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4"
    "\u06e7-\u06ed\u06fd-\u06ff\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e"
    "\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3"
    "\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd"
    "\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc"
    "\u0ec8-\u0ecd"
)
# Numerals that Python's \w contains and \d does not: never part of a word.
_NUMERALS = (
    "²³¹¼-¾\u2070\u2074-\u2079\u2080-\u2089\u2150-\u2182\u2185-\u2189\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3007"
    "\u3021-\u3029\u3038-\u303a"
)
_ACCENT = "&[aeiouAEIOU](?:acute|grave|uml);"
_LETTER = rf"(?:[^\W\d_{_NUMERALS}]|[{_MARKS}]|{_ACCENT})"
_ALNUM = rf"(?:[^\W_{_NUMERALS}]|[{_MARKS}]|{_ACCENT})"
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000\r\n\u2028\u2029\u000b\u000c\u0085]"
_APOS = r"(?:['\u0092\u2019]|&apos;)"
_APOS_OR_TICK = r"(?:['\u0092\u2019`\u0091\u2018\u201b]|&apos;)"
_SGML_NAME = "[A-Za-z][A-Za-z0-9_:.-]*"
_SGML = (
    rf"<(?:[!?][A-Za-z-][^>\r\n]*|/?{_SGML_NAME}(?:[ ]+(?:{_SGML_NAME}[ ]*=[ ]*(?:'[^'\r\n]*'|\"[^\"\r\n]*\")"
    rf"|{_SGML_NAME}))*[ ]*/?|/{_SGML_NAME})[ ]*>"
)
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_ENCLITIC = rf"{_APOS}(?i:[msd]|re|ve|ll)"
_NOT = rf"[nN]{_APOS_OR_TICK}[tT]"
_NUMBER = r"[-+]?(?:\d*(?:[.:,\u00ad\u066b\u066c]\d+)+|\d+)"
_HYPHEN = r"[-_\u058a\u2010\u2011]"
_PLAIN = rf"[^\W_{_NUMERALS}]"
_ELIDED = rf"(?:[dDoOlL]{_APOS_OR_TICK}{_PLAIN})?{_PLAIN}+"
_THING = rf"{_ELIDED}(?:{_HYPHEN}{_ELIDED})*"
_CAPITALS = "[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"
_ACRONYM = r"[A-Za-z](?:\.[A-Za-z])+"
_HYPHENATED = rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\u00ad]+))+"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"
_FULL_URL = r"https?://[^ \t\n\f\r\"<>|(){}]+[^ \t\n\f\r\"<>|.!?(){},-]"
# The class with ",-_" is a range on purpose: digits and capitals are not in a bare host name.
_LIKELY_URL = (
    r"(?:www\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
    r"|(?:[^ \t\n\f\r\"`'<>|.!?(){},-_$]+\.)+(?:com|net|org|edu))"
    r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},-])?"
)
_MAILBOX = r"[^ \t\n\f\r\"<>|(){}.\u00a0]+"
_EMAIL = (
    r"(?:&lt;|<)?[a-zA-Z0-9][^ \t\n\f\r\"<>|(){}\u00a0]*@"
    rf"(?:{_MAILBOX}\.)*{_MAILBOX}(?:&gt;|>)?"
)
_FILE = (
    rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:bat|bmp|cgi|class|cpp|c|dll|docx?|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf"
    r"|php|pl|png|ppt|ps|py|sql|tar|txt|wav|xml|x|zip)"
)
_PHONE = (
    r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])"
    r"[0-9]{3,4}[- \u00a0]?[0-9]{3,5}"
    r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)
# Words with an apostrophe that stay whole; each is a rule of its own, so that the longest wins.
_APOSTROPHE_WORDS = (
    rf"{_APOS}[nN]{_APOS}?",
    rf"[lLdDjJ]{_APOS}",
    rf"(?i:dunkin|somethin|ol){_APOS}",
    rf"{_APOS}(?i:em|till?|cause)|[cC]'(?i:mon)|{_APOS}[2-9]0s",
    rf"[A-HJ-XZn]{_APOS_OR_TICK}{_LETTER}{{2}}{_LETTER}*",
    rf"{_LETTER}{_LETTER}*[aeiouyAEIOUY]{_APOS_OR_TICK}[aeiouA-Z]{_LETTER}*",
    rf"cont'd\.?|nor'easter|[eE]'er|s'mores|ev'ry|li'l|nat'l|[oO]{_APOS_OR_TICK}o",
)
# Abbreviations that keep their period; the first group even where a word follows without a space.
_ENDING = (
    "al|co|ct|ga|jr|ky|md|mo|rd|rt|sq|sr|va|vt|ala|apr|aug|bhd|cos|dak|dec|esq|est|etc|ext|feb|fla|fri|inc|ind|jan|jul"
    "|jun|kan|ltd|mar|mon|neb|nev|nov|oct|plc|sep|seq|sys|tel|thu|tue|wed|wis|wyo|ariz|assn|bldg|blvd|bros|colo|conn"
    "|corp|intl|kans|mich|minn|mont|okla|penn|sept|tenn|tues|univ|wisc|calif|bancorp|thurs"
)
_CAPITALISED = "az|la|pa|ark|del|ill|ore|tex|mass|miss|wash"
_ENDING_ABBREVIATION = rf"(?:(?i:{_ENDING})|(?=[A-Z])(?i:{_CAPITALISED})|[Pp]p?t[ey]s?|(?i:ph|ed)\.[dD])\."
_TITLE = (
    "cf|dr|ft|lt|mr|ms|mt|ph|st|vs|wm|adj|adm|adv|ave|cie|col|cpl|det|drs|ens|gen|gov|hon|jos|maj|mme|mrs|pfc|pvt|rep"
    "|rev|sen|sfc|sgt|spc|ste|alex|asst|atty|brig|capt|cmdr|dept|elec|govs|insp|invt|mlle|msgr|natl|pres|prof|reps"
    "|sens|supt|messrs|profs|attys|lieut|supts|treas|comdr|assoc"
)
_TITLE_ABBREVIATION = rf"(?:(?i:{_TITLE})|[Mm][ft]g|a\.k\.a)\."
_NUMBERED_ABBREVIATION = r"(?i:nos?|art|figs?|pp?|op|ca|prop)\."
# After a single letter and a period, these words say that a sentence has ended.
_STARTERS = (
    "a|about|according|additionally|after|an|as|at|but|earlier|he|her|here|however|if|in|it|last|many|more|now|once|one"
    "|other|our|she|since|so|some|such|that|the|their|then|there|these|they|this|we|what|when|while|yet|you"
)
_SENTENCE_START = rf"{_SPACE}+(?:(?=[A-Z])(?i:{_STARTERS})|(?i:mr|ms)\.|{_SGML}){_SPACE}"
_SMILEY = r"[<>]?[:;=]['\-o*]?[()DPdpO\\{@|\[\]]"
_FACE = r"[-^x=~<>']_[-^x=~<>']|\([-^x=~<>'][_.]?[-^x=~<>']\)"
_SYMBOL = (
    r"[+%&~^|\\¦§¨©¬®¯°-³´-º×÷\u0387\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b"
    r"\u061e\u066a\u066d\u0703-\u070d\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd\u2016\u2017\u2020-\u2023\u2030-\u2038"
    r"\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)

_QUOTES = {
    **dict.fromkeys("\u0091\u2018\u201b\u2039", "`"),
    **dict.fromkeys("\u0092\u2019\u203a", "'"),
    **dict.fromkeys("\u0093\u201c\u00ab", "``"),
    **dict.fromkeys("\u0094\u201d\u00bb", "''"),
}
_FRACTIONS = {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_CURRENCY = {"¢": "cents", "£": "#", "\u0080": "$", "¤": "$", "₠": "$", "€": "$"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}


def _round_brackets(text: str) -> str:
    return text.replace("(", "-lrb-").replace(")", "-rrb-")


def _spaces_bound(text: str) -> str:
    """Keep a token with spaces in one piece, as the Java program does: the space becomes a no-break space."""
    return text.replace(" ", "\u00a0")


def _straight(text: str) -> str:
    return text.replace("\u2019", "'").replace("\u0092", "'").replace("&apos;", "'")


class Rule(NamedTuple):
    """One kind of token: what it looks like, what is kept of it and how it is written."""

    pattern: re.Pattern[str]
    """Group ``t`` is the token; what is matched beyond it is context and only counts for the length."""
    write: Callable[[str], str] | None = None
    """Turns the matched text into the token."""
    back: int = 0
    """Number of characters at the token's end that are given back to the input."""


def _rule(token: str, context: str = "", write: Callable[[str], str] | None = None, back: int = 0) -> Rule:
    return Rule(re.compile(f"(?P<t>{token})(?:{context})"), write, back)


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Return the rules in order of precedence; compiled at the first call."""
    return (
        _rule("(?i:cannot)", back=3),
        _rule("(?i:gonna|gotta|wanna|lemme|gimme)", back=2),
        _rule("'[tT]", "(?i:is|was)"),
        _rule(_SGML, write=_spaces_bound),
        _rule(r"&(?:MD|mdash|ndash);|[\u0096\u0097\u2013\u2014\u2015]", write=lambda _: "--"),
        _rule("&amp;|&lt;|&gt;", write=_ENTITIES.__getitem__),
        _rule(r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
        _rule("&nbsp;", write=lambda _: ""),
        _rule(_WORD, _ENCLITIC),
        _rule(r"[A-Za-z]*[A-MO-Za-mo-z]\u00ad*", _NOT),
        _rule(_WORD),
        *(_rule(words) for words in _APOSTROPHE_WORDS),
        _rule(rf"[yY]{_APOS}", _LETTER),
        _rule(_FULL_URL),
        _rule(_LIKELY_URL),
        _rule(_EMAIL),
        _rule("@[a-zA-Z_][a-zA-Z_0-9]*"),
        _rule(rf"#{_LETTER}+"),
        _rule(_ENCLITIC, "[^A-Za-z]", _straight),
        _rule(_NOT, r"[^A-Za-z]|\Z", _straight),
        _rule(rf"{_APOS}[0-9][0-9]", _SPACE),
        _rule(_FACE, write=_round_brackets),
        _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"),
        _rule(_NUMBER),
        _rule(r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)"),
        _rule(
            r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}",
            write=lambda text: _spaces_bound(text.replace("\u2044", "/")),
        ),
        _rule(r"[\u00bc-\u00be\u2153-\u215e]", write=lambda text: _FRACTIONS.get(text, text)),
        _rule(
            rf"-(?:RRB|LRB|RCB|LCB|RSB|LSB)-|C\.D\.s|pro-|anti-|S(?:&|&amp;)P-500|S(?:&|&amp;)Ls|[cC]ap{_APOS}n"
        ),
        _rule(rf"[cC]{_APOS}est"),
        _rule(r"[A-Z]*\$|#"),
        _rule(
            r"[\u00a2-\u00a5\u0080\u20a0\u20ac\u060b\u0e3f\u20a4\uffe0\uffe1\uffe5\uffe6]",
            write=lambda text: _CURRENCY.get(text, text),
        ),
        _rule(_NUMBERED_ABBREVIATION, rf"{_SPACE}?\d"),
        _rule(_ENDING_ABBREVIATION, r"[\s\S][\s\S]"),
        _rule(_ENDING_ABBREVIATION),
        _rule(_TITLE_ABBREVIATION),
        _rule(rf"{_ACRONYM}\.|[A-Za-z]\."),
        _rule(rf"{_ACRONYM}\.", _SENTENCE_START),
        _rule(r"[A-Za-z]\.", _SENTENCE_START, back=1),
        _rule(rf"{_WORD}\.", r"[,;:\u3001]"),
        _rule(_PHONE, write=lambda text: _spaces_bound(_round_brackets(text))),
        _rule('"|&quot;', write=lambda _: "''"),
        _rule(r"[\[\](){}]", write=_BRACKETS.__getitem__),
        _rule("<<|>>|[<>]"),
        _rule("-+", write=lambda text: "--" if 2 <= len(text) <= 4 else text),
        _rule(r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026]", write=lambda _: "..."),
        _rule(r"@+|#+|_+|\*+|(?:\\\*){1,3}|[,;:\u3001]|[?!]+|=|/"),
        _rule(r"[.¡¿\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]"),
        _rule(rf"{_HYPHENATED}\.", r"[,;:\u3001]"),
        _rule(_HYPHENATED),
        _rule(rf"{_THING}\.", r"[,;:\u3001]"),
        _rule(_THING),
        _rule(rf"{_CAPITALS}\.", r"[,;:\u3001]", lambda text: text.replace("&amp;", "&")),
        _rule(_CAPITALS, write=lambda text: text.replace("&amp;", "&")),
        _rule(_SLASHED),
        _rule("'", r"[A-Za-z][^ \t\n\r\u00a0]"),
        _rule(_ENCLITIC, write=_straight),
        _rule(
            r"''|[`\u0091-\u0094\u2018\u2019\u201a-\u201f\u2039\u203a\u00ab\u00bb]{1,2}|'|&apos;",
            write=lambda text: "".join(_QUOTES.get(c, c) for c in _straight(text)),
        ),
        _rule(_SMILEY, "[^A-Za-z0-9]", _round_brackets),
        _rule(r"[CcFf]#|[cC]\+\+"),
        _rule(_FILE, rf"{_SPACE}|[.?!,]"),
        _rule(_SYMBOL),
    )


def lex(text: str, end: int) -> list[str]:
    """Cut ``text[:end]`` into tokens; what follows ``end`` is only looked at."""
    position, tokens = 0, []
    every = rules()
    while position < end:
        if text[position] in " \n":
            position += 1
            continue
        longest, best, found = position, None, None
        for rule in every:
            match = rule.pattern.match(text, position)
            if match is not None and match.end() > longest and match.end("t") > position:
                longest, best, found = match.end(), rule, match
        if best is None or found is None:  # a character that no rule knows, or another kind of space
            position += 1
            continue
        stop = found.end("t") - best.back
        token = text[position:stop]
        token = best.write(token) if best.write else token
        tokens.append(token.replace("\u00ad", "") or ("-" if token else ""))
        position = stop
    return tokens
