"""What two or more studies use. Nothing here knows a study."""
