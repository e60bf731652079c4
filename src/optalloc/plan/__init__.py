"""Plans: saved, compared and explained."""
