"""The tables of a workspace in the shapes that other people's models and questions are written for.

Views are made from published tables only; nothing here writes facts.
"""
